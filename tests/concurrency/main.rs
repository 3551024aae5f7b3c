//! What one Postgres makes of many agents at once: forced interleavings, and a storm.

mod interleave;
mod storm;
