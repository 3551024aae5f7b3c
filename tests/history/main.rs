//! Tests of the history checker: bad histories, each with the violation that it must report, and good ones
//! that it must accept.

mod bad_content;
mod bad_order;
mod bad_queue_count;
mod bad_queue_keys;
mod bad_queue_order;
mod bad_queue_settle;
mod good;
mod good_queue;
mod good_queue_more;
mod large;
mod model;
mod queue_model;
mod queue_random;
mod queue_state;
mod shop;
mod story;
