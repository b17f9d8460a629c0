package main

import (
	"runtime"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"cardkms/api/server"
	"cardkms/deploy/version"
	"cardkms/kms"
	"cardkms/kms/ledger"
)

// metrics counts what happens. Labels are words of closed lists: operations, codes,
// routes and PKCS#11 functions of the code; tokens, clients, witnesses and issuers of the
// configuration; key names and versions, which only officers make. No card has a label,
// nor anything that a request says. deploy/metrics.md is the reference.
type metrics struct {
	registry *prometheus.Registry

	requests    *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	clients     *prometheus.CounterVec
	operations  *prometheus.CounterVec
	quarantined prometheus.Counter
	groups      *prometheus.CounterVec
	groupSize   prometheus.Histogram
	groupTook   prometheus.Histogram
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: counters("requests_total", "Requests that were answered. code is ok or that of the refusal.", "method", "route", "status", "code"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: namespace + "request_seconds", Help: "How long a request took, streams to their end.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"route"}),
		clients:    counters("client_requests_total", "Requests of each client of the configuration.", "client", "code"),
		operations: counters("operations_total", "Operations with an entry in the audit log. outcome is ok, pending or the code of the refusal; audit_unavailable and the like if the log took no entry.", "operation", "outcome"),
		quarantined: prometheus.NewCounter(prometheus.CounterOpts{
			Name: namespace + "cards_quarantined_total", Help: "Cards that were put into quarantine.",
		}),
		groups:    counters("log_groups_total", "Attempts to commit a group of changes with their entries.", "result"),
		groupSize: histogram("log_group_entries", "Entries of a group that was committed.", prometheus.ExponentialBuckets(1, 2, 9)),
		groupTook: histogram("log_group_seconds", "How long an attempt to commit a group took.", prometheus.ExponentialBuckets(.0005, 2, 14)),
	}
	for _, r := range []string{"ok", "failed"} {
		m.groups.WithLabelValues(r)
	}
	m.registry.MustRegister(m.requests, m.seconds, m.clients, m.operations, m.quarantined, m.groups, m.groupSize, m.groupTook, buildInfo(),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// namespace begins the name of every metric of the service.
const namespace = "cardkms_"

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: namespace + name, Help: help}, labels)
}

func histogram(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Name: namespace + name, Help: help, Buckets: buckets})
}

// buildInfo is 1, with what this binary was built from as labels.
func buildInfo() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: namespace + "build_info", Help: "1; what runs.",
		ConstLabels: prometheus.Labels{"api": server.Version, "revision": version.Revision(), "go": runtime.Version()},
	}, func() float64 { return 1 })
}

// served counts a request.
func (m *metrics) served(s server.Served) {
	code := string(s.Code)
	if code == "" {
		code = "ok"
	}
	m.requests.WithLabelValues(s.Method, s.Route, strconv.Itoa(s.Status), code).Inc()
	m.seconds.WithLabelValues(s.Route).Observe(s.Took.Seconds())
	if s.Client != "" {
		m.clients.WithLabelValues(s.Client, code).Inc()
	}
}

// observed counts an operation.
func (m *metrics) observed(o kms.Observed) {
	m.operations.WithLabelValues(string(o.Operation), string(o.Outcome)).Inc()
	if o.Quarantined {
		m.quarantined.Inc()
	}
}

// group counts a group of the log.
func (m *metrics) group(g ledger.Group) {
	m.groupTook.Observe(g.Took.Seconds())
	if g.Err != nil {
		m.groups.WithLabelValues("failed").Inc()
		return
	}
	m.groups.WithLabelValues("ok").Inc()
	m.groupSize.Observe(float64(g.Entries))
}
