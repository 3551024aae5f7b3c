//! Concurrency tests on one Postgres: forced interleavings, a storm of many agents, pools of
//! connections, and a network that falls silent.

mod interleave;
mod pools;
mod queue;
mod queue_keyed;
mod queue_large;
mod queue_purge;
mod queue_storm;
mod silent;
mod storm;
