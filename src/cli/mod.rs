//! The `cutover` command, one file per subcommand.

pub mod adopt;
pub mod failure;
pub mod group;
pub mod history;
pub mod http;
#[cfg(test)]
mod samples;
pub mod seize;
pub mod status;
pub mod switchover;
pub mod torture;
pub mod verify;
