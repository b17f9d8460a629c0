//go:build !linux

package cardsim

import "net"

// quickACK does nothing where TCP_QUICKACK does not exist.
func quickACK(net.Conn) {}
