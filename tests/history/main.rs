//! The checker of histories is checked: bad histories that it must refuse, each for its own reason, and good ones that it must not.

mod bad_content;
mod bad_order;
mod good;
mod model;
mod story;
