//! The `cutover` command, one file per subcommand.

pub mod failure;
