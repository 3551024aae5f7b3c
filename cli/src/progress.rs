//! The progress bar of `millpond produce`, on standard error. It is not shown if that is not a terminal.

use std::time::Duration;
use tokio::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::humane;
use super::input::Progress;

const FILE_TEMPLATE: &str =
    "{bar:24} {percent:>3}%  {binary_bytes} of {binary_total_bytes}  {msg}  {eta} left";
const PIPE_TEMPLATE: &str = "{spinner} {binary_bytes}  {msg}  {elapsed}";
const DRAWS_PER_SECOND: u8 = 10;

/// The progress bar, which is reused for each attempt.
pub struct Meter {
    bar: ProgressBar,
    started: Instant,
}

impl Meter {
    /// `size_bytes`: the size of the input as stored, if known.
    pub fn new(size_bytes: Option<u64>) -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
        let bar = ProgressBar::with_draw_target(size_bytes, target);
        let template = if size_bytes.is_some() { FILE_TEMPLATE } else { PIPE_TEMPLATE };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, started: Instant::now() }
    }

    /// Starts from zero, for a new attempt.
    pub fn restart(&mut self) {
        self.started = Instant::now();
        self.bar.reset();
    }

    pub fn show(&self, progress: &Progress) {
        let elapsed = self.started.elapsed();
        let records = humane::per_second(progress.taken_lines(), elapsed);
        let bytes = humane::mib_per_second(progress.taken_bytes(), elapsed);
        self.bar.set_message(format!("{bytes}  {} records/s", humane::count(records)));
        self.bar.set_position(progress.read_bytes());
    }

    /// Prints that an attempt has failed, without disturbing the bar.
    pub fn notice(&self, what: &str, pause: Duration) {
        self.bar.suspend(|| eprintln!("{what}; trying again in {:.1} s", pause.as_secs_f64()));
    }

    /// Removes the bar.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
