//! The simulation ring: whole tasks in worlds that are drawn from a seed. A world has a log with groups in memory (eager,
//! cooperative or KIP-848, with static members), a store whose requests meet chosen fates, a clock that jumps, and one to
//! three workers that crash, freeze and turn into zombies; people change settings, and the group may forget everything.
//! Time is tokio's paused time, chance comes from the seed, and nothing else is let in: the same seed twice gives the same
//! trace. When the faults are over, healthy workers finish, and the oracles compare the truth about every record with every
//! object that ever appeared. What can happen is counted ([`actions`]): the seeds must produce each kind. What must not
//! happen is named ([`oracle`]): each part of the protocol is left out in turn to see which oracle notices ([`ablations`]).
//! Scenarios are worlds that are told what to do, one for each thing promised; [`model`] walks the protocol alone.
//!
//! ```text
//!  Scene::draw(seed) --> play --> workers: Task over Tapped(MemorySource), Store over BentStore over FaultyStore over Witness
//!                          |                      | commits                                   | late or not     | objects
//!                          v                      v                                           v                 v
//!                      produce -------------->  Truth: records, plans, objects, trace, tally <-- watch      --> verdict
//! ```
//!
//! `SLUICE_SIM_SEEDS=5000 cargo test -p tests --test sim` plays more worlds, `-- --ignored` plays 20,000, `SLUICE_SIM_SEED=17`
//! one and prints its trace.

mod ablations;
mod actions;
mod bends;
mod evolution;
mod groups;
mod lanes;
mod letters;
mod model;
mod months;
mod oracle;
mod people;
mod play;
mod read;
mod recipe;
mod scenarios;
mod scene;
mod seeds;
mod table;
mod taps;
mod truth;
mod upkeep;
mod versions;
mod views;
mod watch;
mod weather;
mod witness;
mod worker;
mod world;
