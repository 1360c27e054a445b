//! Where a socket goes: forks, other programs, other numbers, other processes, and its end.

mod support;
use support::{Mode, client};

#[test]
fn fork_parent_and_child_share_one_position() {
    client("fork").arg("share").passes();
}

#[test]
fn fork_child_goes_on_alone() {
    client("fork").arg("child-alone").passes();
}

#[test]
fn fork_parent_goes_on_alone() {
    client("fork").arg("parent-alone").passes();
}

#[test]
fn fork_grandchild() {
    client("fork").arg("grandchild").passes();
}

#[test]
fn fork_plugin_in_a_child_reads_and_releases() {
    client("fork").arg("plugin").passes();
}

#[test]
fn fork_child_killed_in_the_middle_of_its_calls() {
    client("fork").arg("killed").passes();
}

#[test]
fn fork_children_are_signalled_while_they_take_over() {
    client("fork_signal").passes();
}

#[test]
fn fork_children_open_rings_while_threads_of_the_parent_do() {
    client("fork_new_ring").arg("fork").passes();
}

#[test]
fn raw_clone_children_open_rings_while_threads_of_the_parent_do() {
    client("fork_new_ring").arg("raw").passes();
}

#[test]
fn fork_children_end_in_a_sandbox() {
    // Where others may look at the rings: who is done with them says so.
    let seen = support::scratch("sandboxed");
    for end in ["exit", "_exit"] {
        client("sandboxed_child").arg(end).env("NLMMAP_VIEW", seen.display().to_string()).passes();
        client("sandboxed_child").arg(end).passes();
    }
    let _ = std::fs::remove_dir_all(seen);
}

#[test]
fn vfork_and_exec() {
    client("spawn").arg("vfork").passes();
}

#[test]
fn posix_spawn() {
    client("spawn").arg("posix_spawn").passes();
}

#[test]
fn system() {
    client("spawn").arg("system").passes();
}

#[test]
fn popen() {
    client("spawn").arg("popen").passes();
}

fn numbers(way: &str) {
    client("dups").arg(way).passes();
}

#[test]
fn dup() {
    numbers("dup");
}

#[test]
fn dup2() {
    numbers("dup2");
}

#[test]
fn dup2_over_an_open_number() {
    numbers("dup2-over");
}

#[test]
fn dup2_onto_itself() {
    numbers("dup2-self");
}

#[test]
fn dup3() {
    numbers("dup3");
}

#[test]
fn fcntl_dupfd() {
    numbers("F_DUPFD");
}

#[test]
fn fcntl_dupfd_cloexec() {
    numbers("F_DUPFD_CLOEXEC");
}

#[test]
fn high_numbers() {
    numbers("high");
}

#[test]
fn standard_descriptors_that_were_closed() {
    client("low_numbers").passes();
}

#[test]
fn close_range() {
    numbers("close_range");
}

#[test]
fn closefrom() {
    client("dups").arg("closefrom").may_lack().passes();
}

#[test]
fn close_loop_over_all_numbers() {
    numbers("close-loop");
}

#[test]
fn numbers_closed_unseen_and_used_again() {
    numbers("reuse");
}

fn number_lost_by(way: &str) {
    client("reuse").arg(way).may_lack().passes();
}

#[test]
fn number_closed_by_a_raw_call_and_used_again() {
    number_lost_by("close");
}

#[test]
fn number_closed_by_a_raw_close_range_and_used_again() {
    number_lost_by("close_range");
}

#[test]
fn number_replaced_by_a_raw_dup2() {
    number_lost_by("dup2");
}

#[test]
fn number_closed_by_io_uring_and_used_again() {
    number_lost_by("io_uring");
}

#[test]
fn numbers_swept_away_with_those_of_the_library() {
    number_lost_by("sweep");
}

#[test]
fn number_used_again_by_a_child_in_its_parents_memory() {
    number_lost_by("vfork");
}

#[test]
fn socket_from_another_network_namespace() {
    client("rights").arg("netns").may_lack().passes();
}

#[test]
fn socket_received_over_scm_rights() {
    client("rights").arg("receive").passes();
}

#[test]
fn ring_socket_sent_over_scm_rights() {
    client("rights").arg("send").passes();
}

#[test]
fn ring_socket_sent_to_oneself() {
    client("rights").arg("back").passes();
}

fn leaves_by(way: &str) {
    client("teardown").arg(way).passes();
}

#[test]
fn close_with_the_mapping_alive() {
    leaves_by("close-mapped");
}

#[test]
fn munmap_in_halves() {
    leaves_by("halves");
}

#[test]
fn munmap_and_close_many_times() {
    leaves_by("whole");
}

#[test]
fn rings_freed_and_set_again() {
    leaves_by("again");
}

#[test]
fn closed_in_the_middle_of_a_dump() {
    leaves_by("mid-dump");
}

#[test]
fn mapped_twice() {
    leaves_by("twice");
}

#[test]
fn exec_with_the_socket_inherited() {
    client("exec").passes();
}

#[test]
fn exec_while_a_fork_child_goes_on() {
    // In strict mode what a process sends is for `recv`, so that the thread has little to move.
    client("exec_beside").only(Mode::Default).passes();
}
