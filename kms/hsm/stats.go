package hsm

import "maps"

// Stats is what a token does now and did since it was opened.
type Stats struct {
	Calls    map[Call]uint64 // of this token; C_Initialize and C_Finalize are the library's
	Sessions int             // for operations
	InUse    int             // of these sessions
	Waiting  int             // operations that wait for one
	Objects  int             // derived keys that are alive in the token
}

// Stats returns figures of the token. It waits for no call in the token, which may hang:
// that is when somebody looks.
func (t *Token) Stats() Stats {
	t.ctx.mu.Lock()
	calls := maps.Clone(t.ctx.n)
	t.ctx.mu.Unlock()
	return Stats{
		Calls: calls, Sessions: t.cfg.Sessions, InUse: int(t.inUse.Load()), Waiting: int(t.waiting.Load()), Objects: t.objects.live(),
	}
}
