package cardsim

import (
	"net"
	"syscall"
)

// quickACK makes the kernel acknowledge the next segment at once. vpcd sends length and payload in two segments with Nagle's
// algorithm on; without this each APDU waits 40 ms for the delayed acknowledgement. The option does not last, so it is set
// before every read. It is an optimisation: errors do not matter. (TCP_NODELAY is on by default in Go.)
func quickACK(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	})
}
