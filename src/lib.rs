//! nlmmap.
