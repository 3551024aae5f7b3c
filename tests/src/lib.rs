//! Shared support for the product's tests: control planes to run against, injected faults, a test S3, a
//! faulty proxy, a harness for the binary, and a checker of recorded histories.

pub mod draft;
pub mod faulty;
pub mod harness;
pub mod history;
pub mod lists;
pub mod members;
pub mod postgres;
pub mod proxy;
pub mod queues;
pub mod s3;
pub mod stage;
pub mod world;
