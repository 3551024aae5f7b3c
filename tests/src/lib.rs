//! What the tests of the product share: worlds to run in, faults, commits of numbered records.

pub mod draft;
pub mod faulty;
pub mod harness;
pub mod history;
pub mod members;
pub mod postgres;
pub mod proxy;
pub mod queues;
pub mod s3;
pub mod stage;
pub mod world;
