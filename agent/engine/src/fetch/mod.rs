//! From an offset to records: `find → plan → cache or store → verify → decode`.

pub mod cache;
mod decoded;
pub mod lookup;
pub mod planner;
pub mod reader;
pub mod watcher;
