package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"cardkms/api"
	"cardkms/api/client"
)

func (a *app) otaCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "ota", Short: "Secured packets for cards over the air, and their responses",
		Long: `Secured packets for cards over the air (SCP80), and their responses. Each command
reads one JSON object, as the API takes it, from a file or from standard input (-):
a card's ICCID never stands on a command line, where every user of the machine
reads it.

  {"key": "ota", "kvn": "01", "kdd": "…", "spi": "1609", "tar": "B00011", "data": "00A40004023F00"}
  {"key": "ota", "kvn": "01", "kdd": "…", "counter": "0000000001", "response": "0016…"}

packet takes the first and prints the packet and its counter; verify takes the
second and prints the response status code and the data.`,
	}
	c.AddCommand(
		jsonVerb(a, "packet", "Secure one packet for a card", (*client.Client).SecureOTAPacket, func(r api.OTASecured) string {
			return fmt.Sprintf("%s\n%s", r.Packet, r.Counter)
		}),
		jsonVerb(a, "verify", "Verify a card's proof of receipt, once", (*client.Client).VerifyOTAResponse, func(r api.OTAVerified) string {
			return fmt.Sprintf("%s %s", r.Status, r.Data)
		}),
	)
	return c
}
