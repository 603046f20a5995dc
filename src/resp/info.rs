//! INFO: the sections and their lines, as clients and tools of Redis 7.0 read them.

use std::fmt::Write as _;

use super::{BackupState, Link, REDIS_VERSION, Role, Status};

/// A section: its name as it is asked for, its title, whether plain INFO shows it, its lines.
struct Section {
    name: &'static str,
    title: &'static str,
    shown: Shown,
    lines: fn(&Status, &mut Lines),
}

/// When a section is shown.
#[derive(PartialEq, Eq)]
enum Shown {
    /// In plain INFO, too.
    Always,
    /// Only when asked for, or with `all` or `everything`.
    Asked,
}

const SECTIONS: &[Section] = &[
    Section { name: "server", title: "Server", shown: Shown::Always, lines: server },
    Section { name: "clients", title: "Clients", shown: Shown::Always, lines: clients },
    Section { name: "memory", title: "Memory", shown: Shown::Always, lines: memory },
    Section { name: "persistence", title: "Persistence", shown: Shown::Always, lines: persistence },
    Section { name: "stats", title: "Stats", shown: Shown::Always, lines: stats },
    Section { name: "replication", title: "Replication", shown: Shown::Always, lines: replication },
    Section { name: "cpu", title: "CPU", shown: Shown::Always, lines: cpu },
    Section { name: "modules", title: "Modules", shown: Shown::Always, lines: |_, _| {} },
    Section { name: "commandstats", title: "Commandstats", shown: Shown::Asked, lines: command_stats },
    Section { name: "errorstats", title: "Errorstats", shown: Shown::Always, lines: error_stats },
    Section { name: "cluster", title: "Cluster", shown: Shown::Always, lines: |_, out| out.line("cluster_enabled", 0) },
    Section { name: "keyspace", title: "Keyspace", shown: Shown::Always, lines: keyspace },
    Section { name: "cutover", title: "Cutover", shown: Shown::Always, lines: cutover },
];

/// The lines of a section.
struct Lines(String);

impl Lines {
    fn line(&mut self, name: impl std::fmt::Display, value: impl std::fmt::Display) {
        write!(self.0, "{name}:{value}\r\n").expect("a String takes every write");
    }

    /// The same figure in bytes and for people.
    fn bytes(&mut self, name: &str, value: u64) {
        self.line(name, value);
        self.line(format_args!("{name}_human"), human(value));
    }
}

/// The text of INFO with these sections; without any, plain INFO.
pub(super) fn text(sections: &[String], status: &Status) -> String {
    let asked = |name: &str| sections.iter().any(|section| section == name);
    let every = asked("all") || asked("everything");
    let default = sections.is_empty() || asked("default");
    let mut out = Lines(String::new());
    for section in SECTIONS {
        if every || asked(section.name) || (default && section.shown == Shown::Always) {
            if !out.0.is_empty() {
                out.0.push_str("\r\n");
            }
            out.0.push_str("# ");
            out.0.push_str(section.title);
            out.0.push_str("\r\n");
            (section.lines)(status, &mut out);
        }
    }
    out.0
}

/// Bytes as Redis writes them for people.
fn human(bytes: u64) -> String {
    let units = ["K", "M", "G", "T", "P"];
    let mut value = bytes as f64;
    let mut unit = None;
    for name in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = Some(name);
    }
    match unit {
        None => format!("{bytes}B"),
        Some(unit) => format!("{value:.2}{unit}"),
    }
}

fn server(status: &Status, out: &mut Lines) {
    out.line("redis_version", REDIS_VERSION);
    out.line("redis_git_sha1", "00000000");
    out.line("redis_git_dirty", 0);
    out.line("redis_build_id", "0");
    out.line("redis_mode", "standalone");
    out.line("cutover_version", &status.version);
    out.line("os", &status.os);
    out.line("arch_bits", usize::BITS);
    out.line("monotonic_clock", "POSIX clock_gettime");
    out.line("multiplexing_api", "epoll");
    out.line("process_id", status.process_id);
    out.line("process_supervised", "no");
    out.line("run_id", &status.run_id);
    out.line("tcp_port", status.redis_address.port);
    out.line("server_time_usec", status.wall_us);
    out.line("uptime_in_seconds", status.uptime_s);
    out.line("uptime_in_days", status.uptime_s / 86_400);
    out.line("hz", 10);
    out.line("configured_hz", 10);
    out.line("lru_clock", (status.wall_us / 1_000_000) & 0xff_ffff);
    out.line("executable", &status.executable);
    out.line("config_file", &status.config_file);
    out.line("io_threads_active", 0);
}

fn clients(status: &Status, out: &mut Lines) {
    out.line("connected_clients", status.connected_clients);
    out.line("cluster_connections", 0);
    out.line("maxclients", status.max_clients);
    out.line("client_recent_max_input_buffer", 0);
    out.line("client_recent_max_output_buffer", 0);
    out.line("blocked_clients", status.blocked_clients);
    out.line("tracking_clients", 0);
    out.line("clients_in_timeout_table", 0);
}

fn memory(status: &Status, out: &mut Lines) {
    out.bytes("used_memory", status.used_memory);
    out.bytes("used_memory_rss", status.resident_memory);
    out.bytes("used_memory_peak", status.used_memory_peak);
    out.bytes("total_system_memory", status.total_memory);
    out.bytes("used_memory_lua", 0);
    out.line("used_memory_dataset", status.used_memory.saturating_sub(status.uncounted_memory));
    out.line("mem_not_counted_for_evict", status.uncounted_memory);
    out.bytes("maxmemory", status.max_memory);
    out.line("maxmemory_policy", "noeviction");
    out.line("mem_fragmentation_ratio", format_args!("{:.2}", ratio(status.resident_memory, status.used_memory)));
    out.line("mem_allocator", "system");
    out.line("active_defrag_running", 0);
    out.line("lazyfree_pending_objects", 0);
}

/// 1 where there is nothing to compare.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

fn persistence(status: &Status, out: &mut Lines) {
    out.line("loading", u8::from(status.loading));
    out.line("async_loading", 0);
    out.line("rdb_changes_since_last_save", 0);
    out.line("rdb_bgsave_in_progress", 0);
    out.line("rdb_last_save_time", (status.wall_us / 1_000_000).saturating_sub(status.uptime_s));
    out.line("rdb_last_bgsave_status", "ok");
    out.line("rdb_last_bgsave_time_sec", -1);
    out.line("rdb_current_bgsave_time_sec", -1);
    out.line("aof_enabled", 0);
    out.line("aof_rewrite_in_progress", 0);
    out.line("aof_rewrite_scheduled", 0);
    out.line("aof_last_rewrite_time_sec", -1);
    out.line("aof_current_rewrite_time_sec", -1);
    out.line("aof_last_bgrewrite_status", "ok");
    out.line("aof_last_write_status", "ok");
}

fn stats(status: &Status, out: &mut Lines) {
    out.line("total_connections_received", status.total_connections);
    out.line("total_commands_processed", status.total_commands);
    out.line("instantaneous_ops_per_sec", status.commands_per_s);
    out.line("total_net_input_bytes", status.input_bytes);
    out.line("total_net_output_bytes", status.output_bytes);
    out.line("instantaneous_input_kbps", "0.00");
    out.line("instantaneous_output_kbps", "0.00");
    out.line("rejected_connections", status.rejected_connections);
    out.line("sync_full", status.state_transfers);
    out.line("sync_partial_ok", status.delta_rejoins);
    out.line("sync_partial_err", 0);
    out.line("expired_keys", status.expired_keys);
    out.line("evicted_keys", 0);
    out.line("evicted_clients", 0);
    out.line("keyspace_hits", status.keyspace_hits);
    out.line("keyspace_misses", status.keyspace_misses);
    out.line("pubsub_channels", 0);
    out.line("pubsub_patterns", 0);
    out.line("latest_fork_usec", 0);
    out.line("total_forks", 0);
    out.line("total_error_replies", status.error_replies);
}

fn replication(status: &Status, out: &mut Lines) {
    match &status.role {
        Role::Primary { backups } => {
            out.line("role", "master");
            out.line("connected_slaves", backups.len());
            for (number, backup) in backups.iter().enumerate() {
                let state = match backup.state {
                    BackupState::Online => "online",
                    BackupState::Transfer => "send_bulk",
                };
                out.line(
                    format_args!("slave{number}"),
                    format_args!(
                        "ip={},port={},state={state},offset={},lag={}",
                        backup.address.host, backup.address.port, backup.index, backup.lag_s
                    ),
                );
            }
        }
        Role::Other { primary, link, heard_s, .. } => {
            let primary = primary.clone().unwrap_or_default();
            let up = *link == Link::Connected;
            out.line("role", "slave");
            out.line("master_host", &primary.host);
            out.line("master_port", primary.port);
            out.line("master_link_status", if up { "up" } else { "down" });
            out.line("master_last_io_seconds_ago", heard_s.map_or(-1, |seconds| seconds as i64));
            out.line("master_sync_in_progress", u8::from(*link == Link::Sync));
            out.line("slave_read_repl_offset", status.applied_index);
            out.line("slave_repl_offset", status.applied_index);
            if !up {
                out.line("master_link_down_since_seconds", heard_s.map_or(-1, |seconds| seconds as i64));
            }
            out.line("slave_priority", 100);
            out.line("slave_read_only", 1);
            out.line("replica_announced", 1);
            out.line("connected_slaves", 0);
        }
    }
    out.line("master_failover_state", "no-failover");
    out.line("master_replid", &status.replication_id);
    out.line("master_replid2", "0".repeat(40));
    let offset = match status.role {
        Role::Primary { .. } => status.commit_index,
        Role::Other { .. } => status.applied_index,
    };
    out.line("master_repl_offset", offset);
    out.line("second_repl_offset", -1);
    out.line("repl_backlog_active", 0);
    out.line("repl_backlog_size", 0);
    out.line("repl_backlog_first_byte_offset", 0);
    out.line("repl_backlog_histlen", 0);
}

fn cpu(status: &Status, out: &mut Lines) {
    out.line("used_cpu_sys", format_args!("{:.6}", status.cpu_system_s));
    out.line("used_cpu_user", format_args!("{:.6}", status.cpu_user_s));
    out.line("used_cpu_sys_children", "0.000000");
    out.line("used_cpu_user_children", "0.000000");
}

fn command_stats(status: &Status, out: &mut Lines) {
    for stat in &status.command_stats {
        let each = if stat.calls == 0 { 0.0 } else { stat.microseconds as f64 / stat.calls as f64 };
        out.line(
            format_args!("cmdstat_{}", stat.name.to_ascii_lowercase()),
            format_args!(
                "calls={},usec={},usec_per_call={each:.2},rejected_calls=0,failed_calls=0",
                stat.calls, stat.microseconds
            ),
        );
    }
}

fn error_stats(status: &Status, out: &mut Lines) {
    for (code, count) in &status.error_stats {
        out.line(format_args!("errorstat_{code}"), format_args!("count={count}"));
    }
}

fn keyspace(status: &Status, out: &mut Lines) {
    if status.keys > 0 {
        out.line("db0", format_args!("keys={},expires={},avg_ttl=0", status.keys, status.expiring_keys));
    }
}

/// What Redis has no words for.
fn cutover(status: &Status, out: &mut Lines) {
    let role = match &status.role {
        Role::Primary { .. } => "primary",
        Role::Other { name, .. } => name,
    };
    out.line("cutover_group", &status.group);
    out.line("cutover_replica", &status.replica);
    out.line("cutover_role", role);
    out.line("cutover_epoch", status.epoch);
    out.line("cutover_in_sync", status.in_sync);
    out.line("cutover_commit_index", status.commit_index);
    out.line("cutover_applied_index", status.applied_index);
    out.line("cutover_durability", &status.durability);
}
