//go:build !canary_ack

package ledger

// ackEarly does nothing. canary_on.go has it wrong on purpose, so that package
// crashtest can show that it would find out.
func (g *group) ackEarly([]*request) {}
