//! Tests of the machine as a whole.

mod harness;
mod replay;
