//! What goes on in programs that have rings: their endpoints' pages, found and read from outside (docs/observing.md).
//!
//! | module | promise |
//! | --- | --- |
//! | [`seen`] | one endpoint as it was at one moment, in plain numbers |
//! | [`place`] | the directories in which pages lie, and which of their files are to be believed |
//! | [`missed`] | what could not be looked at |
//! | [`live`] | all endpoints again and again: rates, lag, the last minute |
//! | [`cause`] | why messages were lost or late, and what helps |
//! | [`asked`] | what a daemon has last answered |
//! | [`tapped`], [`served`], [`copies`] | copies of what passes through rings: of a process, of a daemon's open files, and read |
//! | [`pcapng`] | a file of them |
//! | [`prometheus`] | all of it as Prometheus reads it |
//!
//! A page is written by a process that owes us nothing: it is read by copy, never mapped, and no word of it leads anywhere.

pub mod asked;
pub mod cause;
pub mod copies;
pub mod live;
pub mod missed;
pub mod pcapng;
pub mod place;
pub mod prometheus;
pub mod seen;
pub mod served;
pub mod tapped;

pub use place::{Found, look};
