//! The checker of histories is checked: bad histories that it must refuse, each for its own reason, and good
//! ones that it must not.

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
