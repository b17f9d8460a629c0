package server

import (
	"context"
	"net/http"

	"cardkms/api"
	"cardkms/derive/scp03"
	"cardkms/kms"
)

func (s *server) registerChannels() {
	at := func(id, method, path, summary string, does kms.Operation, status int, kept bool) route {
		return route{id: id, method: method, path: path, tag: "channels", summary: summary, does: does, status: status, keyed: true, kept: kept}
	}
	register(s, at("openChannel", http.MethodPost, channelsPath, "Start a channel with a host challenge, or an ephemeral pair, of the token", kms.ChannelOpen, http.StatusCreated, true), s.openChannel)
	register(s, at("authenticateChannel", http.MethodPost, channelPath+":authenticate", "Verify the card and prove the host", kms.ChannelAuthenticate, 0, true), s.authenticate)
	register(s, at("wrapCommands", http.MethodPost, channelPath+":wrap", "Secure a script of C-APDUs", kms.ChannelWrap, 0, false), s.wrap)
	register(s, at("unwrapResponses", http.MethodPost, channelPath+":unwrap", "Check and decrypt R-APDUs", kms.ChannelUnwrap, 0, false), s.unwrap)
	register(s, at("closeChannel", http.MethodDelete, channelPath, "End a channel", kms.ChannelClose, http.StatusNoContent, true), s.closeChannel)
}

type openChannelInput struct {
	Change
	InIssuer
	Body api.OpenChannel
}

func (s *server) openChannel(ctx context.Context, r kms.Request, in *openChannelInput) (*answer[api.OpenedChannel], error) {
	out, err := s.svc.OpenChannel(ctx, r, kms.OpenChannelInput{
		Issuer: in.Issuer, Key: in.Body.Key, KVN: byte(in.Body.KVN), Profile: in.Body.Profile,
		Certificates: api.Bytes(in.Body.Certificates),
	})
	o := api.OpenedChannel{ID: out.ID, InitializeUpdate: out.InitializeUpdate, KDD: out.KDD, ExpiresAt: out.ExpiresAt.UTC()}
	if out.Agreement != nil {
		o.Agreement = api.HexList(out.Agreement)
	}
	return answered(o), err
}

type authenticateInput struct {
	Change
	OnChannel
	Body api.Authenticate
}

func (s *server) authenticate(ctx context.Context, r kms.Request, in *authenticateInput) (*answer[api.AuthenticatedChannel], error) {
	a := kms.AuthenticateInput{Issuer: in.Issuer, Channel: in.Channel, Response: in.Body.Response}
	if in.Body.Level != nil {
		l := scp03.Level(*in.Body.Level)
		a.Level = &l
	}
	out, err := s.svc.Authenticate(ctx, r, a)
	return answered(api.AuthenticatedChannel{
		ExternalAuthenticate: out.ExternalAuthenticate, KDD: out.KDD, KVN: api.HexByte(out.KVN), I: api.HexByte(out.I),
		SequenceCounter: out.Counter, Level: api.HexByte(out.Level), DataMax: out.DataMax, KeyVersion: out.KeyVersion,
	}), err
}

type wrapInput struct {
	Change
	OnChannel
	Body api.Commands
}

func (s *server) wrap(ctx context.Context, r kms.Request, in *wrapInput) (*answer[api.Commands], error) {
	out, err := s.svc.Wrap(ctx, r, kms.ScriptInput{Issuer: in.Issuer, Channel: in.Channel, APDUs: api.Bytes(in.Body.Commands)})
	return answered(api.Commands{Commands: api.HexList(out)}), err
}

type unwrapInput struct {
	Change
	OnChannel
	Body api.Responses
}

func (s *server) unwrap(ctx context.Context, r kms.Request, in *unwrapInput) (*answer[api.Responses], error) {
	out, err := s.svc.Unwrap(ctx, r, kms.ScriptInput{Issuer: in.Issuer, Channel: in.Channel, APDUs: api.Bytes(in.Body.Responses)})
	return answered(api.Responses{Responses: api.HexList(out)}), err
}

type closeChannelInput struct {
	Change
	OnChannel
}

func (s *server) closeChannel(ctx context.Context, r kms.Request, in *closeChannelInput) (*nothing, error) {
	return &nothing{}, s.svc.CloseChannel(ctx, r, in.Issuer, in.Channel)
}
