//! From an offset to records: `find → plan → cache or store → verify → decode`.

pub mod cache;
pub mod planner;
pub mod reader;
pub mod watcher;
