//! nlmmap serves the memory-mapped netlink ABI (`NETLINK_RX_RING`, `NETLINK_TX_RING`) from userspace.
//!
//! Linux had these socket options from 3.10 to 4.5; a program that was written for them stops at `ENOPROTOOPT` on any
//! later kernel. What runs such programs today is the command `nlmmap run`, which puts `libnlmmap_preload.so` before
//! them: the rings are then ordinary shared memory, and an ordinary netlink socket stands behind them.
//!
//! This crate builds that command. It has no public items yet: a library interface for new programs will stand here.
