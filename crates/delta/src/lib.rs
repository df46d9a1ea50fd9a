//! Make finished files visible as Delta commits; table upkeep. Only this crate knows the Delta log.
