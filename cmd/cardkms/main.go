// Command cardkms is the client of update servers, security officers and
// auditors: it speaks to the API like any other client, and to cards. It holds no
// key, but for the offline tool tr31 and while an officer signs, and links no PKCS#11.
package main

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"cardkms/api"
	"cardkms/api/client"
	"cardkms/cmd/suggest"
	"cardkms/deploy/version"
	"cardkms/kms/key"
)

// Exit statuses. Scripts depend on them.
const (
	exitFailure       = 1
	exitUsage         = 2
	exitNotVerified   = 3
	exitNeedsApproval = 4
	exitTryLater      = 75 // EX_TEMPFAIL
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// app is what every command shares.
type app struct {
	server, issuer, tls, as, cert, key, token, ca string
	named                                         func(flag string) bool // on the command line
	json                                          bool
	out, err                                      io.Writer
}

// errUsage marks errors of the command line.
type errUsage struct{ error }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{out: stdout, err: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "cardkms:", screen(err.Error()))
	if h := a.hint(err); h != "" {
		fmt.Fprintln(stderr, "hint:", h)
	}
	return exitCode(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:     "cardkms",
		Version: version.String(),
		Short:   "Client of the cardkms key management service",
		Long: `Client of the cardkms key management service.

The server, who calls and the issuer come from flags or from the environment
(CARDKMS_SERVER, CARDKMS_TLS, CARDKMS_AS, CARDKMS_TOKEN_FILE, CARDKMS_ISSUER).
--tls names a directory with ca.pem and, for each role, ROLE.pem and ROLE.key,
as "cardkmsd init" makes it; --as chooses the role.

People whom an OpenID provider knows show its ID token instead: --token-file
names a file that holds it and is open to its owner only, --server the
service's listener for people, and --tls or --ca what verifies that. The file is
read for each request; whoever renews it puts a new one in its place.

Exit status: 0 done, 1 failure, 2 usage, 3 a verification was negative,
4 another approval is needed, 75 the service or the card cannot be reached now.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	f := root.PersistentFlags()
	f.StringVar(&a.server, "server", env("CARDKMS_SERVER", "https://127.0.0.1:8443"), "`URL` of the service")
	f.StringVar(&a.issuer, "issuer", env("CARDKMS_ISSUER", "demo"), "issuer")
	f.StringVar(&a.tls, "tls", env("CARDKMS_TLS", ""), "`DIR` with ca.pem, ROLE.pem and ROLE.key")
	f.StringVar(&a.as, "as", env("CARDKMS_AS", "update-server"), "`ROLE` whose certificate to use from --tls")
	f.StringVar(&a.cert, "cert", "", "client certificate `FILE` (instead of --tls)")
	f.StringVar(&a.key, "key-file", "", "its private key `FILE`")
	f.StringVar(&a.token, "token-file", env("CARDKMS_TOKEN_FILE", ""), "`FILE` with an OpenID provider's ID token (instead of a certificate)")
	f.StringVar(&a.ca, "ca", "", "CA `FILE` that verifies the server")
	f.BoolVar(&a.json, "json", false, "print JSON")
	a.named = f.Changed
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return errUsage{suggest.Flag(cmd, err)} })
	root.AddCommand(a.updateCommand(), a.channelCommand(), a.imageCommand(), a.cardCommand(), a.keyCommand(), a.profileCommand(), a.rotationCommand(), a.emvCommand(), a.otaCommand(), a.scriptsCommand(), a.fleetCommand(), a.auditCommand(), a.witnessCommand(),
		a.approvalCommand(), a.officerCommand(), a.ceremonyCommand(), a.tr31Command(), a.clientCommand(), a.haltCommand(), a.healthCommand(), manCommand(root))
	for _, c := range root.Commands() {
		if c.HasSubCommands() {
			c.RunE = group
		}
	}
	return root
}

// group is what a command does that only holds others: a mistyped one must not look
// like success.
func group(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return errUsage{suggest.Command(cmd, args[0])}
	}
	return cmd.Help()
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// client returns a client with the caller's certificate or bearer token.
func (a *app) client() (*client.Client, error) {
	cfg := client.Config{BaseURL: a.server, CertFile: a.cert, KeyFile: a.key, BearerFile: a.token, RootCAsFile: a.ca, UserAgent: "cardkms"}
	if a.tls != "" && cfg.RootCAsFile == "" {
		cfg.RootCAsFile = filepath.Join(a.tls, "ca.pem")
	}
	if a.token == "" && a.tls != "" && cfg.CertFile == "" && cfg.KeyFile == "" {
		cfg.CertFile = filepath.Join(a.tls, a.as+".pem")
		cfg.KeyFile = filepath.Join(a.tls, a.as+".key")
	}
	switch certificate := a.named("as") || os.Getenv("CARDKMS_AS") != "" || a.cert != "" || a.key != ""; {
	case a.token != "" && certificate: // nobody is left to guess who calls
		return nil, errUsage{errors.New("a token says who calls: --token-file (CARDKMS_TOKEN_FILE) goes with none of --as (CARDKMS_AS), --cert and --key-file")}
	case a.token == "" && (cfg.CertFile == "" || cfg.KeyFile == ""):
		return nil, errUsage{errors.New("a client certificate is needed: --tls DIR (with --as ROLE), or --cert and --key-file; or a person's --token-file")}
	}
	c, err := client.New(cfg)
	if err != nil { // it asked nobody yet: a flag, or a file that a flag names
		return nil, errUsage{err}
	}
	return c, nil
}

// show prints a result: as JSON, or as the given text.
func (a *app) show(v any, format string, args ...any) error {
	if !a.json {
		fmt.Fprint(a.out, screen(fmt.Sprintf(format+"\n", args...)))
		return nil
	}
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// exactly and atLeast refuse another number of arguments as a usage error.
func exactly(n int) cobra.PositionalArgs { return counted(cobra.ExactArgs(n)) }
func atLeast(n int) cobra.PositionalArgs { return counted(cobra.MinimumNArgs(n)) }

// counted names the arguments that a command takes, where cobra only counts them.
func counted(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if check(cmd, args) != nil {
			return errUsage{fmt.Errorf("%s given; usage: %s", count(int64(len(args)), "argument"), cmd.UseLine())}
		}
		return nil
	}
}

// argument is what an argument of a command must look like. Checking it here says
// what is wrong in the words of the command, before anybody is asked.
type argument struct {
	name, form string
	is         func(string) bool
}

var (
	proposalArg = argument{"ID", "32 hexadecimal digits, as \"cardkms approval list\" shows", isHex(32)}
	channelArg  = argument{"CHANNEL", "32 hexadecimal digits, as \"cardkms channel open\" printed", isHex(32)}
	kddArg      = argument{"KDD", "the card's key diversification data, 20 hexadecimal digits", isHex(20)}
	bytesArg    = argument{"RESPONSE", "the card's answer in hexadecimal digits, status word included", func(s string) bool { b, err := hex.DecodeString(s); return err == nil && len(b) >= 2 }}
	keyArg      = argument{"KEY", "the name of a key: 1 to 63 lower-case letters, digits and hyphens, a letter first", key.ValidName}
	numberArg   = argument{"VERSION", "a number from 1", func(s string) bool { n, err := strconv.Atoi(s); return err == nil && n > 0 }}
)

func isHex(digits int) func(string) bool {
	return func(s string) bool { _, err := hex.DecodeString(s); return err == nil && len(s) == digits }
}

// arguments is exactly for arguments that have a form.
func arguments(want ...argument) cobra.PositionalArgs {
	return cobra.MatchAll(exactly(len(want)), formed(want...))
}

// formed checks the form of the first arguments, which are there.
func formed(want ...argument) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		for i, w := range want {
			if !w.is(args[i]) {
				return errUsage{fmt.Errorf("%q is no %s: that is %s", args[i], w.name, w.form)}
			}
		}
		return nil
	}
}

func exitCode(err error) int {
	var u errUsage
	var p *api.Problem
	var lost *cardLost
	switch {
	case errors.As(err, &u), cobraUsage(err):
		return exitUsage
	case errors.Is(err, errNotVerified):
		return exitNotVerified
	case errors.As(err, &p) && (p.Code == api.ProofFailed || p.Code == api.ImageUnverified):
		return exitNotVerified
	case errors.As(err, &p) && p.Code == api.ApprovalRequired:
		return exitNeedsApproval
	case errors.As(err, &p) && p.Code.Temporary(), errors.As(err, &lost), unreachable(err):
		return exitTryLater
	}
	return exitFailure
}

// unreachable reports whether nobody answered at the address of the service.
func unreachable(err error) bool {
	var dial *net.OpError
	return errors.As(err, &dial) && dial.Op == "dial"
}

// cobraUsage reports the usage errors for which cobra has no type.
func cobraUsage(err error) bool {
	for _, prefix := range []string{"required flag(s)", "unknown command"} {
		if strings.HasPrefix(err.Error(), prefix) {
			return true
		}
	}
	return false
}

// errNotVerified is a log, a receipt or a signature that is not what it claims.
var errNotVerified = errors.New("not verified")

// advised is an error with a hint that only its command can give.
type advised struct {
	error
	hint string
}

func (e advised) Unwrap() error { return e.error }

// hint says what the reader could do about an error.
func (a *app) hint(err error) string {
	var p *api.Problem
	var lost *cardLost
	var known advised
	if errors.As(err, &known) {
		return known.hint
	}
	if errors.As(err, &lost) {
		return "is the card in the reader, and does --card name it (tcp:HOST:PORT)?"
	}
	if unreachable(err) {
		return "is the service running, and does --server name it?"
	}
	var unknown *tls.CertificateVerificationError
	if errors.As(err, &unknown) {
		return "does --tls (or --ca) belong to this service, or does another one listen at --server?"
	}
	var remote *net.OpError
	if a.token != "" && errors.As(err, &remote) && remote.Op == "remote error" { // an alert of TLS
		return "is --server the service's listener for people (people.listen)? The other one asks for a certificate"
	}
	if !errors.As(err, &p) {
		return ""
	}
	if h, ok := tokenHints[p.Code]; ok && a.token != "" {
		return h
	}
	return hints[p.Code]
}

// tokenHints are hints for whoever shows a bearer token, before those for everybody.
var tokenHints = map[api.Code]string{
	api.Unauthenticated: "have the OpenID provider give a new ID token for this service, and put it into the file; its sub must stand under people.subjects in the server's configuration",
	api.Forbidden:       "if it is your role that may not do this, another may, with a token or a certificate of its own",
}

// hints fit every refusal of their code: which one it is, only its detail says.
var hints = map[api.Code]string{
	api.Unauthenticated:  "the server does not know this certificate; its URI must stand under clients: in the server's configuration",
	api.Forbidden:        "if it is your role that may not do this, another may; choose it with --as",
	api.NotFound:         "keys, cards, images and card profiles are looked for at one issuer: that of --issuer, or of issuers/ISSUER/... in a proposal",
	api.ProofFailed:      "wrong keys, a wrong key version or diversification, or something in between changed bytes; for an approval: the key is not that of the officer whose certificate is used; the audit log holds the attempt",
	api.CardQuarantined:  "the card failed three proofs in a row; find out why before it is used again",
	api.CardCounter:      "two cards with one identity, or a card that lost its memory",
	api.VersionMismatch:  "choose an image that starts from the version that the card runs",
	api.Downgrade:        "the image is older than what the card accepts; release one with a higher security counter",
	api.ImageUnverified:  "sign the image with a release key of the server's configuration, over exactly this content",
	api.WrongNode:        "the load balancer must send requests of a channel to the node that its id begins with",
	api.ChannelClosed:    "channels end after a while, and with the first error; open a new one",
	api.TokenUnavailable: "the service waits for its token; try again in a moment",
	api.AuditFull:        "make room on the disk of the database; the service goes on by itself",
	api.ClockUnsafe:      "the clock of the service's machine went back or jumped; its operator sets it right",
	api.ObjectTampered:   "the database was changed behind the service's back; the operator's log and \"cardkms audit tail\" name the object",
	api.RollbackDetected: "the database was changed or put back; the operator's log says what was found, and \"cardkmsd restore\" is the way back after a restore",
	api.ApprovalRequired: "other officers approve it with \"cardkms approval approve\"; who proposed does not count",
	api.ApprovalVoid:     "\"cardkms approval show\" says what became of it; propose anew",
	api.ApprovalExpired:  "propose anew",
	api.Halted:           "somebody stopped all use of keys; officers resume it (\"cardkms approval propose system.resume system/halt\")",
	api.AuditUnavailable: "the service cannot write its audit log and does nothing until it can",
}
