//! What one Postgres makes of many agents at once: forced interleavings, a storm, and a network that falls
//! silent.

mod interleave;
mod queue;
mod queue_keyed;
mod queue_storm;
mod silent;
mod storm;
