//! For fuzz targets: what the daemon makes of any bytes.

pub mod requests;
pub mod told;
