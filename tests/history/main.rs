//! The checker of histories is checked: bad histories that it must refuse, each for its own reason, and good ones that it must not.

mod bad;
mod good;
mod model;
mod story;
