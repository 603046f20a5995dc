//! The searches against bugs planted on purpose (`tests/planted.md`).

use std::time::Instant;

use cutover_arbiter::planted::{Row, rows, with};

use super::search::{Bounds, Found, search};
use super::world::Scenario;

fn finds(row: &Row, scenario: Scenario, bounds: Bounds) -> Found {
    with(row.name, || search(&scenario, bounds))
}

#[test]
#[ignore = "derives the table: `cargo planted`"]
fn depth_until_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let only = std::env::var("BUG").ok();
    let rows: Vec<Row> = rows().into_iter().filter(|row| only.as_ref().is_none_or(|only| only == row.name)).collect();
    let queue = std::sync::Mutex::new(rows.into_iter().filter(|row| !row.name.starts_with("R-")));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(row) = {
                    let next = queue.lock().expect("nobody panics with it").next();
                    next
                } {
                    for (name, scenario) in super::SCENARIOS {
                        let since = Instant::now();
                        let found = finds(&row, *scenario, Bounds { depth: 12, states: super::limit() });
                        let took = since.elapsed().as_secs_f32();
                        match found.violation {
                            Some((why, way)) => {
                                println!(
                                    "{:<24} {name:<10} {:>8} states {took:>6.1}s depth {}: {why}\n        {}",
                                    row.name,
                                    found.states,
                                    way.len(),
                                    way.join("; ")
                                );
                                break;
                            }
                            None => println!(
                                "{:<24} {name:<10} {:>8} states {took:>6.1}s: nothing to depth {}",
                                row.name, found.states, found.depth
                            ),
                        }
                    }
                }
            });
        }
    });
}
