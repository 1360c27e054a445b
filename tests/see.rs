//! What is seen from outside of programs with rings: pages in the runtime directory, tables, summaries.

mod support;

#[path = "see/capture.rs"]
mod capture;
#[path = "see/place.rs"]
mod place;
#[path = "see/stat.rs"]
mod stat;
#[path = "see/summary.rs"]
mod summary;
#[path = "see/top.rs"]
mod top;
