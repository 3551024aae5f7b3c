//! Concurrency tests on one Postgres: forced interleavings, a storm of many agents, and a network that falls
//! silent.

mod interleave;
mod queue;
mod queue_keyed;
mod queue_storm;
mod silent;
mod storm;
