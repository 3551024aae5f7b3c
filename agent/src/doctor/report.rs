//! The findings of `millpond doctor`, and how they are printed.

use serde::Serialize;
use std::io::{self, Write};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// Worth knowing, but neither good nor bad.
    Info,
    /// Agents work, but not as well or as safely as they could.
    Warning,
    /// Agents do not start, do not work, or could lose records.
    Failure,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name of the check, such as `database.fsync`.
    pub check: &'static str,
    pub status: Status,
    pub detail: String,
    /// What to do about it, for warnings and failures.
    pub advice: Option<String>,
}

#[derive(Debug, Default)]
pub struct Report {
    pub findings: Vec<Finding>,
}

/// The report as it is printed with `--json`.
#[derive(Serialize)]
struct JsonReport<'a> {
    healthy: bool,
    findings: &'a [Finding],
}

impl Report {
    fn add(&mut self, check: &'static str, status: Status, detail: String, advice: Option<String>) {
        self.findings.push(Finding { check, status, detail, advice });
    }

    pub fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Status::Ok, detail.into(), None);
    }

    pub fn info(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Status::Info, detail.into(), None);
    }

    pub fn warn(&mut self, check: &'static str, detail: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Status::Warning, detail.into(), Some(advice.into()));
    }

    pub fn fail(&mut self, check: &'static str, detail: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Status::Failure, detail.into(), Some(advice.into()));
    }

    pub fn failed(&self) -> bool {
        self.findings.iter().any(|finding| finding.status == Status::Failure)
    }

    pub fn print(&self, out: &mut impl Write, json: bool) -> io::Result<()> {
        if json {
            serde_json::to_writer(
                &mut *out,
                &JsonReport { healthy: !self.failed(), findings: &self.findings },
            )?;
            return writeln!(out);
        }
        let width = self.findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
        for Finding { check, status, detail, advice } in &self.findings {
            let mark = match status {
                Status::Ok => "ok",
                Status::Info => "info",
                Status::Warning => "WARNING",
                Status::Failure => "FAILURE",
            };
            writeln!(out, "{mark:<8} {check:<width$}  {detail}")?;
            if let Some(advice) = advice {
                writeln!(out, "{:<8} {:<width$}  -> {advice}", "", "")?;
            }
        }
        out.flush()
    }
}
