package main

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"edgeclaim"
	"edgeclaim/cmd/internal/cli"
	"edgeclaim/provision"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	namespace = "edgeclaim"
	// scrapeTimeout bounds one reading of the metrics.
	scrapeTimeout = 5 * time.Second
	// scrapesAtOnce bounds how many readings go on side by side.
	scrapesAtOnce = 3
)

// gauges are the box's metrics. Every label is from a closed set (P7), none
// names a device, a key or a client. They are served to the operator only: the
// reasons of refusals are among them (P3).
type gauges struct {
	registry *prometheus.Registry

	claims       *prometheus.CounterVec
	claimSeconds *prometheus.HistogramVec

	commitSeconds prometheus.Histogram
	commitClaims  prometheus.Histogram
}

func newGauges(built cli.Build) *gauges {
	g := &gauges{
		registry: prometheus.NewRegistry(),
		claims: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "claims_total", Help: "Claims by face and outcome.",
		}, []string{"face", "outcome"}),
		claimSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "claim_seconds", Help: "Time from a claim's receipt to its decision; refusals are answered later.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16), // 0.5 ms to 16 s
		}, []string{"face"}),
		commitSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "commit_seconds", Help: "Time of a transaction with its fsync.",
			Buckets: prometheus.ExponentialBuckets(0.0002, 2, 16), // 0.2 ms to 6.5 s
		}),
		commitClaims: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "commit_claims", Help: "New devices in a transaction.",
			Buckets: []float64{0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512},
		}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "The version, as a label.",
		ConstLabels: prometheus.Labels{"version": built.Version, "goversion": built.Go},
	})
	info.Set(1)
	g.registry.MustRegister(g.claims, g.claimSeconds, g.commitSeconds, g.commitClaims, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, via := range []edgeclaim.Via{edgeclaim.ViaHTTP, edgeclaim.ViaMQTT} {
		g.claims.WithLabelValues(string(via), string(provision.OutcomeMinted))
	}
	return g
}

// claim is a provision.Config's Observe.
func (g *gauges) claim(via edgeclaim.Via, outcome provision.Outcome, took time.Duration) {
	g.claims.WithLabelValues(string(via), string(outcome)).Inc()
	g.claimSeconds.WithLabelValues(string(via)).Observe(took.Seconds())
}

// commit is a store.Config's OnCommit.
func (g *gauges) commit(took time.Duration, claims int) {
	g.commitSeconds.Observe(took.Seconds())
	g.commitClaims.Observe(float64(claims))
}

// statusFunc reads the box at a glance.
type statusFunc = func(context.Context) (edgeclaim.Status, error)

// handler serves the metrics, the state of the box among them. It is called
// once.
func (g *gauges) handler(status statusFunc, logger *slog.Logger) http.Handler {
	g.registry.MustRegister(&stateCollector{status: status})
	return promhttp.HandlerFor(g.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError, // a part of the metrics is better than none
		MaxRequestsInFlight: scrapesAtOnce,
		Timeout:             scrapeTimeout,
	})
}

// stateCollector reads the state of the box at each scrape, so that the metrics
// and `edgeclaim status` cannot disagree.
type stateCollector struct{ status statusFunc }

// state is one metric of the state, with its variable labels.
func state(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
}

var (
	descDevices     = state("devices", "Devices on record.")
	descConnections = state("connections", "Open MQTT connections by kind.", "kind")
	descPending     = state("outbox_pending", "Records that upstream does not have yet.", "lane")
	descBytes       = state("outbox_bytes", "Bytes of those records.", "lane")
	descOldest      = state("outbox_oldest_age_seconds", "Age of the oldest of those records.", "lane")
	descAppended    = state("outbox_appended_total", "Records put in the outbox in its life.", "lane")
	descAcked       = state("outbox_acked_total", "Records that upstream has.", "lane")
	descDropped     = state("outbox_dropped_total", "Records dropped for want of room.", "lane")
	descParked      = state("outbox_parked_total", "Records that left for the quarantine.", "lane")
	descQuarantined = state("outbox_quarantined", "Records in quarantine, which an operator has to look into.", "lane")
	descUpstream    = state("upstream_up", "Whether a part of the way up is up; absent where it is off.", "part")
	descEnrolled    = state("upstream_enrolled", "Whether only what the enrolled key has signed is taken from upstream.")
	descInFlight    = state("upstream_in_flight", "Records on their way.")
	descCredit      = state("upstream_credit", "Records that upstream lets be on their way; absent while no application has welcomed the box.")
	descAlarms      = state("upstream_alarms_total", "What must not happen between box and upstream, and did.", "alarm")
	descStoreBytes  = state("store_bytes", "Size of the registry's file.")
	descSynced      = state("clock_synced", "Whether the kernel holds the wall clock for synchronised.")
	descFloor       = state("clock_floor_timestamp_seconds", "The time below which the wall clock is not believed.")
	descUptime      = state("uptime_seconds", "Time since the program started.")
	descLineAlarms  = state("alarms_total", "What must not happen on the line or in the box, and did.", "alarm")
	descWaiting     = state("pending_claims", "Claims that wait for an operator.")
	descAuditLost   = state("audit_lost_total", "Entries of the audit log that could not be written.")
	descAuditLast   = state("audit_sequence", "The audit log's last entry.")
	descUserTold    = state("user_messages_total", "Messages to named users, by what became of them.", "outcome")
	descUserRefused = state("user_logins_refused_total", "Logins by name with a wrong password, or a name that nobody has.")
	descOnline      = state("devices_online", "Devices that say something.")
	descAccepted    = state("telemetry_accepted_total", "Points and events that were taken.")
	descRejected    = state("telemetry_rejected_total", "Points and events that were not, by reason.", "reason")
	descFleeting    = state("telemetry_qos0_total", "Points that nobody waits for, by what became of them.", "outcome")
	descEventsWait  = state("device_events_waiting", "Events of devices that are not in the outbox yet.")
	descEventsLost  = state("device_events_dropped_total", "Events of devices that were lost before.")
	descReserved    = state("telemetry_reserved", "Whether the disk is down to what only claims may use.")
	descCommands    = state("commands_waiting", "Commands that have not come to an end.")
	descNotAfter    = state("certificate_not_after_seconds", "When a certificate of the box's own ends, in Unix time.", "for")
	descDocuments   = state("documents", "Documents from upstream that the box holds.", "type")
	descDocumentAge = state("document_age_seconds", "How long ago upstream confirmed a document, of the oldest of its type; 0 where there is none.", "type")
	descStale       = state("documents_stale", "Documents that nobody has confirmed for too long.", "type")
	descUntaken     = state("documents_refused", "Documents whose last offer was not taken.", "type")
	descShares      = state("shares_low", "Keys of several boxes of which this one's share is nearly used up.")
	descCertificate = state("certificate_usable", "Whether a certificate of the box's own can be used as it ought to be.", "for")
)

// Describe implements prometheus.Collector.
func (*stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		descDevices, descConnections, descPending, descBytes, descOldest, descAppended, descAcked, descDropped,
		descParked, descQuarantined, descUpstream, descEnrolled, descInFlight, descCredit, descAlarms, descStoreBytes, descSynced, descFloor, descUptime,
		descLineAlarms, descWaiting, descAuditLost, descAuditLast, descNotAfter, descCertificate,
		descUserTold, descUserRefused, descOnline, descAccepted, descRejected, descFleeting, descEventsWait, descEventsLost, descReserved, descCommands,
		descDocuments, descDocumentAge, descStale, descUntaken, descShares,
	} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout) // the interface has no context
	defer cancel()
	status, err := c.status(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descDevices, err)
		return
	}
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	total := func(desc *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(descDevices, float64(status.Devices))
	gauge(descConnections, float64(status.Connections.Claimants), "claimant")
	gauge(descConnections, float64(status.Connections.Devices), "device")
	gauge(descConnections, float64(status.Connections.Consumers), "user")
	for lane, stats := range status.Outbox {
		gauge(descPending, float64(stats.Pending), string(lane))
		gauge(descBytes, float64(stats.Bytes), string(lane))
		gauge(descOldest, stats.OldestAge, string(lane))
		total(descAppended, stats.Appended, string(lane))
		total(descAcked, stats.Acked, string(lane))
		total(descDropped, stats.Dropped, string(lane))
		total(descParked, stats.Parked, string(lane))
		gauge(descQuarantined, float64(stats.Quarantined), string(lane))
	}
	collectUpstream(&status.Upstream, gauge, total)
	gauge(descStoreBytes, float64(status.Store.Bytes))
	gauge(descSynced, oneIf(status.Clock.State == edgeclaim.ClockSynced))
	if floor := status.Clock.Floor; !floor.IsZero() { // a build that knows no date has none yet
		gauge(descFloor, float64(floor.Unix()))
	}
	gauge(descUptime, status.UptimeSeconds)
	collectTrust(&status, gauge, total)
	collectWork(&status, gauge, total)
	collectDocuments(&status, gauge)
}

// collectDocuments reads the documents from upstream: by type, for there may be
// a thousand.
func collectDocuments(status *edgeclaim.Status, gauge gaugeFunc) {
	for _, kind := range edgeclaim.DocumentTypes() {
		var held, stale, refused int
		var age float64
		for i := range status.Documents {
			d := &status.Documents[i]
			if d.Type != kind {
				continue
			}
			if d.Version > 0 {
				held++
				age = max(age, d.Age)
			}
			stale += int(oneIf(d.Stale))
			refused += int(oneIf(d.Refused != ""))
		}
		gauge(descDocuments, float64(held), string(kind))
		gauge(descDocumentAge, age, string(kind)) // 0 of none
		gauge(descStale, float64(stale), string(kind))
		gauge(descUntaken, float64(refused), string(kind))
	}
	gauge(descShares, float64(len(status.Shares)))
}

// collectWork reads what devices say, and are told, and who hears of it.
func collectWork(status *edgeclaim.Status, gauge gaugeFunc, total totalFunc) {
	total(descUserTold, status.Users.Delivered, "delivered")
	total(descUserTold, status.Users.Dropped, "dropped")
	total(descUserRefused, status.Users.LoginsRefused)
	said := &status.Telemetry
	gauge(descOnline, float64(said.Online))
	total(descAccepted, said.Accepted)
	for reason, n := range said.Rejected {
		total(descRejected, n, reason)
	}
	total(descFleeting, said.Fleeting, "forwarded")
	total(descFleeting, said.FleetingDropped, "dropped")
	gauge(descEventsWait, float64(said.EventsWaiting))
	total(descEventsLost, said.EventsDropped)
	gauge(descReserved, oneIf(said.Reserved))
	gauge(descCommands, float64(status.Commands.Waiting))
}

// lineAlarms and upstreamAlarms are the kinds there are, each with a counter
// from the start: a rise from nothing would not be seen as one.
var lineAlarms = []edgeclaim.Alarm{
	edgeclaim.AlarmCloned, edgeclaim.AlarmKeyOverused, edgeclaim.AlarmThrottled, edgeclaim.AlarmUnconfirmed,
	edgeclaim.AlarmAuditLost, edgeclaim.AlarmCertificates, edgeclaim.AlarmTelemetryDropped, edgeclaim.AlarmDiskReserve,
	edgeclaim.AlarmDocumentRefused, edgeclaim.AlarmDocumentStale, edgeclaim.AlarmDeviceConflict, edgeclaim.AlarmKeyRevoked, edgeclaim.AlarmShareLow,
}

var upstreamAlarms = []edgeclaim.Alarm{
	edgeclaim.AlarmForged, edgeclaim.AlarmMalformed, edgeclaim.AlarmOversized, edgeclaim.AlarmForeign,
	edgeclaim.AlarmAckAbove, edgeclaim.AlarmStale, edgeclaim.AlarmFenced, edgeclaim.AlarmNotWelcome,
	edgeclaim.AlarmUpstreamBehind, edgeclaim.AlarmQuarantine, edgeclaim.AlarmEnrolment, edgeclaim.AlarmTelemetryUnread,
}

// These are what a collector writes its figures with.
type (
	gaugeFunc = func(desc *prometheus.Desc, value float64, labels ...string)
	totalFunc = func(desc *prometheus.Desc, value uint64, labels ...string)
)

// collectTrust reads who is let in, and what that hangs on.
func collectTrust(status *edgeclaim.Status, gauge gaugeFunc, total totalFunc) {
	gauge(descWaiting, float64(status.Pending))
	total(descAuditLost, status.Audit.Lost)
	gauge(descAuditLast, float64(status.Audit.Sequence))
	for use, certificate := range status.Certificates {
		if !certificate.NotAfter.IsZero() {
			gauge(descNotAfter, float64(certificate.NotAfter.Unix()), use)
		}
		gauge(descCertificate, oneIf(certificate.Problem == ""), use)
	}
	collectAlarms(descLineAlarms, lineAlarms, status.Alarms, total)
}

// collectAlarms counts those kinds, and no other: the label is bounded.
func collectAlarms(desc *prometheus.Desc, kinds []edgeclaim.Alarm, risen []edgeclaim.AlarmCount, total totalFunc) {
	counts := map[edgeclaim.Alarm]uint64{}
	for _, alarm := range risen {
		counts[alarm.Alarm] = alarm.Count
	}
	for _, kind := range kinds {
		total(desc, counts[kind], string(kind))
	}
}

// collectUpstream reads the way up. Where none is configured, it has neither
// lamps nor anything on its way; alarms it may have all the same.
func collectUpstream(up *edgeclaim.UpstreamStatus, gauge gaugeFunc, total totalFunc) {
	for part, lamp := range map[string]edgeclaim.Lamp{"link": up.Link, "broker": up.Broker, "app": up.App} {
		if lamp != edgeclaim.LampOff {
			gauge(descUpstream, oneIf(lamp == edgeclaim.LampUp), part)
		}
	}
	gauge(descEnrolled, oneIf(up.Enrolled))
	if up.URL != "" {
		gauge(descInFlight, float64(up.InFlight))
	}
	if up.Credit > 0 || up.App == edgeclaim.LampUp {
		gauge(descCredit, float64(up.Credit))
	}
	collectAlarms(descAlarms, upstreamAlarms, up.Alarms, total)
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
