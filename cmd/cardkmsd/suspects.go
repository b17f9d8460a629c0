package main

import (
	"context"
	"sync"

	"cardkms/kms"
	"cardkms/kms/ledger"
)

// suspects carries what the ledger finds to the service, which writes it into the
// log. The ledger does not wait, and begins before the service does.
type suspects struct {
	mu      sync.Mutex
	service *kms.Service        // nil until the service is there
	early   []*ledger.Violation // what was found before
	busy    sync.WaitGroup
}

func (s *suspects) add(v *ledger.Violation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.service == nil {
		s.early = append(s.early, v)
		return
	}
	s.tell(s.service, v)
}

func (s *suspects) tell(service *kms.Service, v *ledger.Violation) {
	s.busy.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
		defer cancel()
		service.Suspect(ctx, v)
	})
}

// serve hands over what was found so far.
func (s *suspects) serve(service *kms.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.service = service
	for _, v := range s.early {
		s.tell(service, v)
	}
	s.early = nil
}

// wait returns when everything is in the log, or was refused by it.
func (s *suspects) wait() { s.busy.Wait() }
