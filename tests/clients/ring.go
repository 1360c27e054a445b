// A client of the rings in go, without a C library: raw system calls, an epoll instance of its own, several goroutines.
//
// ring dump:    links by a kick and frames, beside the same by recv
// ring queue N: N packets judged by frames and kicks
// Exit status: that of tests/clients/ring.h.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

const (
	solNetlink = 270
	rxRing     = 6
	txRing     = 7
	unused     = 0
	valid      = 2
	copied     = 3
	header     = 24
	netfilter  = 12
)

type ring struct {
	memory     []byte
	frame, nr  int
	pos        int
}

type socket struct {
	fd     int
	rx, tx ring
	epoll  int
}

var native = binary.LittleEndian

func fail(format string, args ...interface{}) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

func must(err error, what string) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

func (r *ring) status() *uint32 {
	return (*uint32)(unsafe.Pointer(&r.memory[r.pos*r.frame]))
}

func (r *ring) length() int {
	return int(native.Uint32(r.memory[r.pos*r.frame+4:]))
}

func (r *ring) payload() []byte {
	return r.memory[r.pos*r.frame+header : (r.pos+1)*r.frame]
}

func (r *ring) next() {
	r.pos = (r.pos + 1) % r.nr
}

func setRing(fd, option, frame, nr int) {
	request := [4]uint32{uint32(frame * nr), 1, uint32(frame), uint32(nr)}
	_, _, errno := syscall.Syscall6(syscall.SYS_SETSOCKOPT, uintptr(fd), solNetlink, uintptr(option),
		uintptr(unsafe.Pointer(&request)), 16, 0)
	if errno == syscall.ENOPROTOOPT {
		fmt.Fprintln(os.Stderr, "refused: Protocol not available")
		os.Exit(3)
	}
	if errno != 0 {
		fail("ring %d: %v", option, errno)
	}
}

func open(family, frame, nr int) *socket {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, family)
	must(err, "socket")
	setRing(fd, rxRing, frame, nr)
	setRing(fd, txRing, frame, nr)
	must(syscall.Bind(fd, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}), "bind")
	memory, err := syscall.Mmap(fd, 0, 2*frame*nr, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	must(err, "mmap")
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	must(err, "epoll_create1")
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
	must(syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, fd, &event), "epoll_ctl")
	return &socket{
		fd:    fd,
		rx:    ring{memory: memory[:frame*nr], frame: frame, nr: nr},
		tx:    ring{memory: memory[frame*nr:], frame: frame, nr: nr},
		epoll: epoll,
	}
}

func (s *socket) put(message []byte) {
	if atomic.LoadUint32(s.tx.status()) != unused {
		fail("the transmit frame is not free")
	}
	copy(s.tx.payload(), message)
	native.PutUint32(s.tx.memory[s.tx.pos*s.tx.frame+4:], uint32(len(message)))
	atomic.StoreUint32(s.tx.status(), valid)
	s.tx.next()
}

func (s *socket) kick() int {
	for {
		n, _, errno := syscall.Syscall6(syscall.SYS_SENDTO, uintptr(s.fd), 0, 0, 0, 0, 0)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			fail("kick: %v", errno)
		}
		return int(n)
	}
}

// take gives each message to f until it says that was the last.
func (s *socket) take(f func(message []byte) bool) {
	buffer := make([]byte, 65536)
	for {
		switch atomic.LoadUint32(s.rx.status()) {
		case valid:
			last := f(s.rx.payload()[:s.rx.length()])
			atomic.StoreUint32(s.rx.status(), unused)
			s.rx.next()
			if last {
				return
			}
		case copied:
			n, _, err := syscall.Recvfrom(s.fd, buffer, 0)
			must(err, "recvfrom")
			atomic.StoreUint32(s.rx.status(), unused)
			s.rx.next()
			if f(buffer[:n]) {
				return
			}
		default:
			events := make([]syscall.EpollEvent, 4)
			n, err := syscall.EpollWait(s.epoll, events, 5000)
			if err == syscall.EINTR {
				continue
			}
			must(err, "epoll_wait")
			if n == 0 {
				fail("no message within 5 s")
			}
			if atomic.LoadUint32(s.rx.status()) == unused {
				fail("epoll woke, but the head frame is not there")
			}
		}
	}
}

func dumpRequest(seq uint32) []byte {
	m := make([]byte, 20)
	native.PutUint32(m, 20)
	native.PutUint16(m[4:], syscall.RTM_GETLINK)
	native.PutUint16(m[6:], syscall.NLM_F_REQUEST|syscall.NLM_F_DUMP)
	native.PutUint32(m[8:], seq)
	return m
}

// names adds the links of a datagram; whether it ends the dump.
func names(datagram []byte, found map[string]bool) bool {
	messages, err := syscall.ParseNetlinkMessage(datagram)
	must(err, "a message")
	for i := range messages {
		if messages[i].Header.Type == syscall.NLMSG_DONE {
			return true
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(&messages[i])
		must(err, "attributes")
		for _, a := range attributes {
			if a.Attr.Type == syscall.IFLA_IFNAME {
				found[string(a.Value)] = true
			}
		}
	}
	return false
}

func dump(rounds int) {
	plain := map[string]bool{}
	bytes, err := syscall.NetlinkRIB(syscall.RTM_GETLINK, syscall.AF_UNSPEC)
	must(err, "the dump by recv")
	names(bytes, plain)
	var wait sync.WaitGroup
	for i := 0; i < 4; i++ {
		wait.Add(1)
		go func() {
			defer wait.Done()
			s := open(syscall.NETLINK_ROUTE, 16384, 8)
			for round := 0; round < rounds; round++ {
				found := map[string]bool{}
				s.put(dumpRequest(uint32(round)))
				if n := s.kick(); n != 20 {
					fail("kick: %d", n)
				}
				s.take(func(m []byte) bool { return names(m, found) })
				if len(found) == 0 || len(found) != len(plain) {
					fail("%d links by frames, %d by recv", len(found), len(plain))
				}
				// The runtime takes the processor by signals.
				for i := 0; i < 1000; i++ {
					runtime.Gosched()
				}
			}
			syscall.Close(s.epoll)
			syscall.Close(s.fd)
		}()
	}
	wait.Wait()
}

func attribute(kind uint16, value []byte) []byte {
	a := make([]byte, (4+len(value)+3)&^3)
	native.PutUint16(a, uint16(4+len(value)))
	native.PutUint16(a[2:], kind)
	copy(a[4:], value)
	return a
}

// message is one of nfnetlink_queue's, for queue 5.
func message(kind uint16, flags uint16, seq uint32, body ...[]byte) []byte {
	m := []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5}
	for _, a := range body {
		m = append(m, a...)
	}
	native.PutUint32(m, uint32(len(m)))
	native.PutUint16(m[4:], 3<<8|kind)
	native.PutUint16(m[6:], flags|syscall.NLM_F_REQUEST)
	native.PutUint32(m[8:], seq)
	return m
}

func queue(count int) {
	s := open(netfilter, 2048, 64)
	// Bind, and copy whole packets; each is acknowledged.
	s.put(message(2, syscall.NLM_F_ACK, 1, attribute(1, []byte{1, 0, 0, 2})))
	s.put(message(2, syscall.NLM_F_ACK, 2, attribute(2, []byte{0, 0, 255, 255, 2})))
	s.kick()
	acks := 0
	s.take(func(m []byte) bool {
		if native.Uint16(m[4:]) != syscall.NLMSG_ERROR || native.Uint32(m[16:]) != 0 {
			fail("not acknowledged: % x", m)
		}
		acks++
		return acks == 2
	})
	go func() {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
		must(err, "socket")
		for i := 0; i < count; i++ {
			to := &syscall.SockaddrInet4{Port: 9999, Addr: [4]byte{127, 0, 0, 1}}
			for syscall.Sendto(fd, []byte("packet"), 0, to) != nil {
				runtime.Gosched()
			}
			if i%32 == 31 {
				runtime.Gosched()
			}
		}
	}()
	judged := 0
	s.take(func(m []byte) bool {
		if native.Uint16(m[4:]) != 3<<8 {
			return false
		}
		// NFQA_PACKET_HDR is the first attribute; its id the first word of it.
		id := m[24:28]
		verdict := append([]byte{0, 0, 0, 1}, id...)
		s.put(message(1, 0, 0, attribute(2, verdict)))
		judged++
		if judged%16 == 0 || judged == count || atomic.LoadUint32(s.tx.status()) != unused {
			s.kick()
		} else if next := (s.rx.pos + 1) % s.rx.nr; atomic.LoadUint32((*uint32)(unsafe.Pointer(&s.rx.memory[next*s.rx.frame]))) == unused {
			s.kick()
		}
		return judged == count
	})
}

func main() {
	if len(os.Args) < 3 {
		fail("usage: ring dump|queue N")
	}
	n, err := strconv.Atoi(os.Args[2])
	must(err, "a number")
	if os.Args[1] == "dump" {
		dump(n)
	} else {
		queue(n)
	}
	fmt.Println("ok")
}
