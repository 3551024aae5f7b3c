//! What users and machines do to a Millpond, as stories, each with processes of its own.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

#[path = "03_agent_killed.rs"]
mod agent_killed;
#[path = "12_agents.rs"]
mod agents;
#[path = "15_agents_killed.rs"]
mod agents_killed;
#[path = "18_all_flights.rs"]
mod all_flights;
#[path = "07_closed_folder.rs"]
mod closed_folder;
#[path = "11_commands.rs"]
mod commands;
#[path = "10_corrupt.rs"]
mod corrupt;
#[path = "02_crash_between.rs"]
mod crash_between;
#[path = "14_doctor.rs"]
mod doctor;
#[path = "08_drain.rs"]
mod drain;
#[path = "16_groups.rs"]
mod groups;
#[path = "09_idle.rs"]
mod idle;
#[path = "04_postgres_killed.rs"]
mod postgres_killed;
#[path = "17_queue_workers.rs"]
mod queue_workers;
#[path = "19_readme_workers.rs"]
mod readme_workers;
#[path = "01_round_trip.rs"]
mod round_trip;
#[path = "06_second_instance.rs"]
mod second_instance;
#[path = "05_stopped.rs"]
mod stopped;
#[path = "13_store_faults.rs"]
mod store_faults;
