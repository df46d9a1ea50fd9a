//! The simulation ring: whole tasks in worlds that are drawn from a seed. A world has a log with groups in memory, a
//! store whose requests meet chosen fates, a clock that jumps, and one to three workers that crash, freeze and turn into
//! zombies. Time is tokio's paused time, chance comes from the seed, and nothing else is let in: the same seed twice
//! gives the same trace. When the faults are over, healthy workers finish, and the truth about every record is compared
//! with every object that ever appeared. Scenarios are worlds that are told what to do, one for each thing promised.
//!
//! ```text
//!  Scene::draw(seed) --> play --> workers: Task over Tapped(MemorySource), Store over FaultyStore over Witness over InMemory
//!                          |                      | commits                          | objects
//!                          v                      v                                  v
//!                      produce -------------->  Truth: records, plans, objects, trace --> verdict
//! ```
//!
//! `SLUICE_SIM_SEEDS=20000 cargo test -p tests --test sim` plays more worlds, `SLUICE_SIM_SEED=17` one and prints its
//! trace.

mod evolution;
mod play;
mod recipe;
mod scenarios;
mod scene;
mod seeds;
mod taps;
mod truth;
mod weather;
mod witness;
mod worker;
mod world;
