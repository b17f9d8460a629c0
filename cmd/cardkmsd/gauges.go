package main

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cardkms/kms"
	"cardkms/kms/key"
)

// gaugesTimeout bounds one reading of what the database says. What cannot be read is left
// out of the answer; sealed says why.
const gaugesTimeout = 3 * time.Second

// gauge describes what is read when somebody asks.
type gauge struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func newGauge(name, help string, labels ...string) gauge {
	return gauge{prometheus.NewDesc(namespace+name, help, labels, nil), prometheus.GaugeValue}
}

func (g gauge) send(ch chan<- prometheus.Metric, value float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(g.desc, g.kind, value, labels...)
}

var (
	tokenCalls    = gauge{prometheus.NewDesc(namespace+"token_calls_total", "PKCS#11 calls by what came of them: ok, session (spoilt), handle (stale), lost, pin (refused), unable, error.", []string{"token", "function", "result"}, nil), prometheus.CounterValue}
	tokenUp       = newGauge("token_up", "1 if the keys of the token serve.", "token")
	tokenSessions = newGauge("token_sessions", "PKCS#11 sessions for operations.", "token")
	tokenInUse    = newGauge("token_sessions_in_use", "Of these sessions, those that an operation has.", "token")
	tokenWaiting  = newGauge("token_waiting", "Operations that wait for a session.", "token")
	tokenObjects  = newGauge("token_objects", "Derived keys that are alive in the token.", "token")

	logEntries    = newGauge("log_entries", "Durable entries of the audit log.")
	logUnsigned   = newGauge("log_unsigned_entries", "Entries that no checkpoint covers yet.")
	logCheckpoint = newGauge("log_checkpoint_timestamp_seconds", "When this process signed or read the newest checkpoint.")
	keptBehind    = newGauge("log_keeper_behind_entries", "Signed entries that an anchor or a witness has not seen yet.", "keeper")
	keptAt        = newGauge("log_keeper_timestamp_seconds", "When this process brought an anchor or a witness a checkpoint; 0 for not yet.", "keeper")
	violations    = newGauge("database_violations", "Rows and logs that are not what was written, as far as is known.")

	channelsOpen = newGauge("channels_open", "Open channels of this process.")
	haltedGauge  = newGauge("halted", "1 while use of keys is stopped.")
	sealedGauge  = newGauge("sealed", "1 while the service is in this sealed state; deploy/runbooks has a page for each.", "state")
	keyEnds      = newGauge("key_end_timestamp_seconds", "End of the cryptoperiod of a key version that protects.", "issuer", "key", "version", "state")
	certificate  = newGauge("certificate_end_timestamp_seconds", "When a certificate expires: the server's, and the first of the clients' CAs.", "certificate")
)

// gauges reads what a node is like at the moment.
type gauges struct {
	n    *node
	ends func() map[string]time.Time // of certificates
}

// Describe implements prometheus.Collector.
func (gauges) Describe(ch chan<- *prometheus.Desc) {
	for _, g := range []gauge{tokenCalls, tokenUp, tokenSessions, tokenInUse, tokenWaiting, tokenObjects, logEntries, logUnsigned,
		logCheckpoint, keptBehind, keptAt, violations, channelsOpen, haltedGauge, sealedGauge, keyEnds, certificate} {
		ch <- g.desc
	}
}

// Collect implements prometheus.Collector.
func (g gauges) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), gaugesTimeout)
	defer cancel()
	g.health(ctx, ch)
	g.log(ch)
	channelsOpen.send(ch, float64(g.n.service.OpenChannels()))
	if halted, err := g.n.service.Halted(ctx); err == nil {
		haltedGauge.send(ch, one(halted))
	}
	versions, _ := g.n.service.AllKeys(ctx) // what is there
	for _, v := range versions {
		if !v.Ends.IsZero() && slices.Contains([]key.State{key.PreActivation, key.Active, key.Suspended}, v.State) {
			keyEnds.send(ch, seconds(v.Ends), v.ID.Issuer, v.ID.Name, strconv.Itoa(v.ID.Version), string(v.State))
		}
	}
	for name, end := range g.ends() {
		certificate.send(ch, seconds(end), name)
	}
}

// mainToken is the word for the token that has no name, in metrics, logs and reports.
const mainToken = "main"

func (g gauges) health(ctx context.Context, ch chan<- prometheus.Metric) {
	h := g.n.service.Health(ctx)
	for _, state := range kms.SealedStates() {
		sealedGauge.send(ch, one(slices.Contains(h.Sealed, state)), string(state))
	}
	tokenUp.send(ch, one(!slices.Contains(h.Sealed, kms.HSMDown) && !slices.Contains(h.Sealed, kms.PINRefused)), mainToken)
	g.token(ch, "", mainToken)
	for _, name := range g.n.tokens.Names() {
		away := slices.ContainsFunc(h.Tokens, func(t kms.TokenState) bool { return t.Name == name && t.Err != nil })
		tokenUp.send(ch, one(!away), name)
		g.token(ch, name, name)
	}
}

// token sends the figures of a token that is open.
func (g gauges) token(ch chan<- prometheus.Metric, name, label string) {
	t, err := g.n.tokens.Get(name)
	if err != nil {
		return
	}
	s := t.Stats()
	for call, n := range s.Calls {
		tokenCalls.send(ch, float64(n), label, call.Function, call.Result)
	}
	tokenSessions.send(ch, float64(s.Sessions), label)
	tokenInUse.send(ch, float64(s.InUse), label)
	tokenWaiting.send(ch, float64(s.Waiting), label)
	tokenObjects.send(ch, float64(s.Objects), label)
}

func (g gauges) log(ch chan<- prometheus.Metric) {
	s := g.n.log.Stats()
	logEntries.send(ch, float64(s.Size))
	logUnsigned.send(ch, float64(s.Size-s.Signed.Size))
	logCheckpoint.send(ch, seconds(s.Signed.At))
	for name, k := range s.Kept {
		keptBehind.send(ch, float64(s.Signed.Size-k.Size), name)
		keptAt.send(ch, seconds(k.At), name)
	}
	violations.send(ch, float64(len(g.n.log.Violations())))
}

func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
