//! Scenarios: what users and machines do to a Millpond, each with its own processes.

mod s01_round_trip;
mod s02_crash_between;
mod s03_agent_killed;
mod s04_postgres_killed;
mod s05_stopped;
mod s06_second_instance;
mod s07_closed_folder;
mod s08_drain;
mod s09_idle;
mod s10_corrupt;
mod s11_commands;
mod s12_agents;
mod s13_store_faults;
mod s14_doctor;
mod s15_agents_killed;
mod s16_groups;
mod s17_queue_workers;
mod s18_all_flights;
mod s19_readme_workers;
mod s20_upgrade;
mod s21_marker;
mod s22_waiting;
