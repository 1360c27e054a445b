//! Real netlink families in namespaces made here: packets queued and logged by iptables, connection tracking, nf_tables
//! batches, route events, generic netlink, socket diagnosis, uevents.

mod support;
use support::{Client, client};

const UDP: &str = "ip link set lo up; iptables-legacy -A OUTPUT -p udp --dport 9999 -j";

fn nfqueue(mode: &str) -> Client {
    client("nfqueue").arg(mode).setup(&format!("{UDP} NFQUEUE --queue-num 5"))
}

#[test]
fn nfqueue_judges_every_packet_in_order() {
    nfqueue("accept").passes();
}

#[test]
fn nfqueue_batch_verdicts_judge_what_they_name() {
    nfqueue("batch").passes();
}

#[test]
fn nfqueue_flood_loses_only_what_the_kernel_dropped() {
    nfqueue("flood").passes();
}

fn error_amid_a_walk_found_by(road: &str) {
    client("midwalk").arg(road).setup(&format!("{UDP} NFQUEUE --queue-num 5")).passes();
}

#[test]
fn errors_amid_a_walk_are_there_at_its_end() {
    for road in ["kick", "poll", "recv", "spin"] {
        error_amid_a_walk_found_by(road);
    }
}

#[test]
fn answers_amid_a_walk_are_there_when_the_kick_returns() {
    error_amid_a_walk_found_by("ack");
}

#[test]
fn nfqueue_gso_packets_arrive_whole() {
    client("nfqueue")
        .arg("gso")
        .setup("ip link set lo up; iptables-legacy -A OUTPUT -p tcp --dport 9999 -j NFQUEUE --queue-num 5")
        .passes();
}

#[test]
fn nflog_numbers_every_packet() {
    client("nflog").setup(&format!("{UDP} NFLOG --nflog-group 7 --nflog-threshold 1")).passes();
}

#[test]
fn conntrack_60_000_entries_created_and_dumped() {
    client("conntrack").arg("create").arg("60000").may_lack().seconds(180).passes();
}

#[test]
fn conntrack_events() {
    client("conntrack").arg("events").may_lack().passes();
}

#[test]
fn nf_tables_batches_are_transactions() {
    client("nft_batch").may_lack().passes();
}

#[test]
fn route_events() {
    client("families").arg("route").passes();
}

#[test]
fn generic_netlink() {
    client("families").arg("generic").passes();
}

#[test]
fn socket_diagnosis() {
    client("families").arg("diag").passes();
}

#[test]
fn uevents() {
    client("families").arg("uevent").may_lack().passes();
}
