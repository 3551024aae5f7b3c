//! Checks of the answers to settlements, against each other and against the hand-outs.

use super::Checker;
use super::chain::Finding;
use super::hand::{Hand, Touch};
use crate::history::queue::{Intent, Status};
use crate::history::violation::Kind;

impl<'a> Checker<'a> {
    pub(super) fn verdicts(&mut self) {
        for number in 0..self.hands.len() {
            let hand = self.hands[number];
            for n in hand.touches.0..hand.touches.1 {
                let touch = self.touches[n];
                let finding = self
                    .fits(&hand, &touch)
                    .or_else(|| self.contradiction(&hand, &touch, n))
                    .or_else(|| self.lost(&hand, &touch, n));
                if let Some(Finding { kind, ops, what }) = finding {
                    self.say(
                        kind,
                        hand.queue,
                        (hand.partition, hand.offset),
                        &ops,
                        &format!("{what}: {}", self.saw(&hand)),
                    );
                }
            }
        }
    }

    /// Checks one verdict by itself: it has the right kind, and the record is dead exactly at the limit.
    fn fits(&self, hand: &Hand<'a>, touch: &Touch<'a>) -> Option<Finding> {
        let status = touch.status?;
        let (least, most) = self.queues[hand.queue].max_failures();
        let ops = [hand.op, touch.op];
        let failures = hand.failures.saturating_add(1);
        match (touch.intent, status) {
            (_, Status::Lost | Status::Untouched)
            | (Intent::Ack, Status::Acked)
            | (Intent::Reject { .. }, Status::Dead)
            | (Intent::Renew { .. }, Status::Renewed) => None,
            (Intent::Nack { counts, .. }, Status::Released) => {
                let late = *counts && failures >= most;
                if late {
                    Finding::new(Kind::DeadLate, &ops, format!("released with failure {failures} of {most}"))
                } else {
                    None
                }
            }
            (Intent::Nack { counts, .. }, Status::Dead) => {
                let early = !*counts || failures < least;
                if early {
                    Finding::new(Kind::DeadEarly, &ops, format!("dead with failure {failures} of {least}"))
                } else {
                    None
                }
            }
            (intent, status) => {
                Finding::new(Kind::WrongVerdict, &ops, format!("{intent:?} was answered {status:?}"))
            }
        }
    }

    /// Checks that a hand-out ends once, and that a repeated request gets the same answer.
    fn contradiction(&self, hand: &Hand<'a>, touch: &Touch<'a>, n: usize) -> Option<Finding> {
        let status = touch.status?;
        for (other, number) in self.touches_of(hand).iter().zip(hand.touches.0..) {
            if number == n || other.status.is_none() {
                continue;
            }
            if touch.repeats(other) {
                let changed = number < n && other.status != Some(status);
                if changed {
                    let what = format!("a repeated settlement was told {status:?} after {:?}", other.status);
                    return Finding::new(Kind::WrongVerdict, &[other.op, touch.op], what);
                }
                continue;
            }
            let twice = touch.ended() && other.ended() && number < n;
            let late = status == Status::Renewed && other.ended() && other.returned < touch.invoked;
            if twice || late {
                let what =
                    format!("a settled receipt was settled again: {:?}, then {status:?}", other.status);
                return Finding::new(Kind::SettledTwice, &[hand.op, other.op, touch.op], what);
            }
        }
        None
    }

    /// Checks that a receipt is not called lost if nothing can have ended its hand-out.
    fn lost(&self, hand: &Hand<'a>, touch: &Touch<'a>, n: usize) -> Option<Finding> {
        if touch.status != Some(Status::Lost) {
            return None;
        }
        let mut others =
            self.touches_of(hand).iter().zip(hand.touches.0..).filter(|(_, number)| *number != n);
        let settled = others.any(|(t, _)| t.may_have_ended() && t.invoked <= touch.returned);
        let broken = self.queues[hand.queue]
            .breaks_of(hand.partition)
            .any(|b| b.invoked <= touch.returned && hand.invoked <= b.returned);
        let latest_ms = self.clock.at_most(touch.returned);
        let expired =
            self.deadline_ms(hand, touch.returned) <= latest_ms.saturating_add(self.options.slack_ms);
        if settled || broken || expired {
            return None;
        }
        Finding::new(
            Kind::WronglyLost,
            &[hand.op, touch.op],
            format!("a receipt was lost at {latest_ms} ms or before, though nothing had ended it"),
        )
    }
}
