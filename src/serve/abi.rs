//! The device's ioctls: those of [`nlmmap_ring::device_abi`], which are the header's.

pub use nlmmap_ring::device_abi::*;

/// Whether an ioctl changes nothing and sends nothing: whoever has the open file may have the answer.
pub const fn only_asks(number: u32) -> bool {
    matches!(number, GETSOCKNAME | GETPEERNAME | GETSOCKOPT | GET_ERROR | STATE)
        || matches!(unsized_number(number), RECV | PEEK | PART | GETOPT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nlmmap_ring::abi::nl_mmap_req;
    use nlmmap_ring::sys::SockaddrNl;
    use std::fmt::Write as _;
    use std::mem::offset_of;
    use std::process::Command;

    /// What the C compiler makes of the header is what is written here.
    #[test]
    fn numbers_and_layouts_are_the_headers() {
        let (mut print, mut expected) = (String::new(), String::new());
        let mut same = |what: &str, value: u64| {
            writeln!(print, "printf(\"{what} %llu\\n\", (unsigned long long)({what}));").unwrap();
            writeln!(expected, "{what} {value}").unwrap();
        };
        for (name, number) in NUMBERS {
            same(&format!("NLMMAP_{name}"), u64::from(*number));
        }
        for (name, value) in [
            ("ABI", ABI),
            ("NODE_FUSE", NODE_FUSE),
            ("NODE_CUSE", NODE_CUSE),
            ("MAP_NODE", MAP_NODE),
            ("MAP_MEMORY", MAP_MEMORY),
        ] {
            same(&format!("NLMMAP_{name}"), u64::from(value));
        }
        for (name, value, head) in [
            ("SEND", SEND, size_of::<Send>()),
            ("RECV", RECV, size_of::<Message>() + CONTROL_ROOM),
            ("PEEK", PEEK, size_of::<Message>() + CONTROL_ROOM),
            ("PART", PART, size_of::<Part>()),
            ("SETOPT", SETOPT, size_of::<Opt>()),
            ("GETOPT", GETOPT, size_of::<Opt>()),
        ] {
            same(&format!("NLMMAP_{name}(24)"), u64::from(value) | (head as u64 + 24) << 16);
        }
        for (name, value) in [
            ("SOCKET_STRICT", u64::from(SOCKET_STRICT)),
            ("SEND_NEXT", u64::from(SEND_NEXT)),
            ("KICK_DONTWAIT", u64::from(KICK_DONTWAIT)),
            ("MESSAGE_STAYS", u64::from(MESSAGE_STAYS)),
            ("MESSAGE_ROOM", MESSAGE_ROOM as u64),
            ("CONTROL_ROOM", CONTROL_ROOM as u64),
            ("STATE_RX", u64::from(STATE_RX)),
            ("STATE_TX", u64::from(STATE_TX)),
            ("F_SOCKET_CALLS", F_SOCKET_CALLS),
        ] {
            same(&format!("NLMMAP_{name}"), value);
        }
        same("NLMMAP_F_MAP_NODE", F_MAP_NODE);
        same("NLMMAP_F_MAP_MEMORY", F_MAP_MEMORY);
        macro_rules! layout {
            ($c:literal, $rust:ty, $($field:ident = $cfield:literal),*) => {
                same(concat!("sizeof(struct ", $c, ")"), size_of::<$rust>() as u64);
                $(same(concat!("__builtin_offsetof(struct ", $c, ", ", $cfield, ")"), offset_of!($rust, $field) as u64);)*
            };
        }
        layout!("nlmmap_version", Version, abi = "abi", node = "node", features = "features");
        layout!("nlmmap_socket", Socket, kind = "type", protocol = "protocol");
        layout!("nlmmap_sockopt", SockOpt, level = "level", name = "name", value = "value");
        layout!("nlmmap_map_info", MapInfo, how = "how", rx_len = "rx_len", tx_len = "tx_len");
        layout!("nlmmap_kick", Kick, dest = "dest", dest_len = "dest_len", sent = "sent");
        layout!("nlmmap_send", Send, dest = "dest", dest_len = "dest_len", flags = "flags");
        layout!(
            "nlmmap_message",
            Message,
            len = "len",
            flags = "flags",
            control_len = "control_len",
            data_len = "data_len",
            name = "name",
            serial = "serial"
        );
        layout!("nlmmap_part", Part, serial = "serial", offset = "offset", data_len = "data_len");
        layout!("nlmmap_opt", Opt, level = "level", name = "name", len = "len");
        layout!("nlmmap_mapped", Mapped, mapped = "mapped", how = "how", rx_len = "rx_len", tx_len = "tx_len");
        layout!(
            "nlmmap_state",
            State,
            kind = "type",
            protocol = "protocol",
            rings = "rings",
            handle = "handle",
            inode = "inode"
        );
        layout!("nlmmap_kick_as", KickAs, kick = "kick", flags = "flags", pid = "pid", uid = "uid", gid = "gid");
        layout!("nl_mmap_req", nl_mmap_req, nm_block_size = "nm_block_size", nm_frame_nr = "nm_frame_nr");
        layout!("sockaddr_nl", SockaddrNl, portid = "nl_pid", groups = "nl_groups");

        let directory = tempfile::tempdir().unwrap();
        let (source, program) = (directory.path().join("probe.c"), directory.path().join("probe"));
        let text = format!(
            "#include <stdio.h>\n#include <sys/socket.h>\n#include <nlmmap.h>\nint main(void)\n{{\n{print}return 0;\n}}\n"
        );
        std::fs::write(&source, text).unwrap();
        let include = concat!(env!("CARGO_MANIFEST_DIR"), "/include");
        let compiled = Command::new("cc")
            .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-I", include, "-o"])
            .args([&program, &source])
            .output()
            .expect("a C compiler (apt install gcc libc6-dev linux-libc-dev)");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let output = Command::new(&program).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }

    #[test]
    fn bytes_of_another_length_are_refused() {
        assert!(read::<Socket>(&[0; 7]).is_none());
        assert!(read::<Socket>(&[0; 9]).is_none());
        let kick = Kick { dest_len: 12, sent: 5, ..Kick::default() };
        assert_eq!(read::<Kick>(bytes(&kick)).unwrap().sent, 5);
    }
}
