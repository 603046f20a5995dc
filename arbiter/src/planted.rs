//! Bugs planted on purpose, each behind a name, so that the searches which should find them can be tried.
//!
//! `planted!("P6")` is `false`, and gone, without the feature `planted`. With it, it asks whether this thread runs under
//! [`with`] of that very name: at most one bug is alive at a time, and none unless a test says so. The feature refuses to
//! be compiled without debug assertions, so no release can hold a bug; a plain `cargo test` does not turn it on.
//!
//! `tests/planted.md` is the table of all names: which rule each breaks, where it stands, and what finds it. Deliberately
//! not here: the bugs, which stand at the line where their rule lives.

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!(
    "feature `planted` builds known bugs in and is for tests only: build without it, or with debug assertions"
);

/// Whether the bug of this name is alive on this thread; the constant `false` without the feature `planted`.
#[macro_export]
macro_rules! planted {
    ($name:literal) => {
        $crate::planted::is_alive($name)
    };
}

/// Without the feature no bug exists: a constant, so that nothing of one is compiled.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is_alive(_name: &str) -> bool {
    false
}

#[cfg(feature = "planted")]
pub use alive::{Row, is_alive, rows, with};

#[cfg(feature = "planted")]
mod alive {
    use std::cell::Cell;

    thread_local! {
        static ALIVE: Cell<&'static str> = const { Cell::new("") };
    }

    /// Whether this thread runs under [`with`] of this name.
    pub fn is_alive(name: &str) -> bool {
        ALIVE.get() == name
    }

    /// Runs `work` with one bug alive on this thread, also when it panics.
    pub fn with<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
        struct Before(&'static str);
        impl Drop for Before {
            fn drop(&mut self) {
                ALIVE.set(self.0);
            }
        }
        let _before = Before(ALIVE.replace(name));
        work()
    }

    /// A line of the table.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Row {
        /// Name of the bug, as `planted!` has it.
        pub name: &'static str,
        /// The exhaustive search that finds it, if one does.
        pub search: Option<&'static str>,
        /// The random search that finds it, if one does.
        pub random: Option<&'static str>,
        /// Seeds within which the random search must find it.
        pub budget: u64,
        /// The first seed that does.
        pub seed: u64,
    }

    /// The lines of `tests/planted.md` whose bugs are planted. One that cannot be read is an error: nobody would try it.
    pub fn rows() -> Vec<Row> {
        let table = include_str!("../../tests/planted.md");
        let lines = table.lines().filter(|line| line.starts_with("| `"));
        lines.map(|line| row(line).unwrap_or_else(|| panic!("no row of a planted bug: {line}"))).collect()
    }

    fn row(line: &'static str) -> Option<Row> {
        let mut cells = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`'));
        let (name, _what, _rule, _place) = (cells.next()?, cells.next()?, cells.next()?, cells.next()?);
        let (search, random, seeds) = (cells.next()?, cells.next()?, cells.next()?);
        let some = |cell: &'static str| (cell != "–").then_some(cell);
        let (seed, budget) = if seeds == "–" { ("0", "0") } else { seeds.split_once(" of ")? };
        let number = |text: &str| text.parse().ok();
        Some(Row { name, search: some(search), random: some(random), budget: number(budget)?, seed: number(seed)? })
    }
}
