package main

import (
	"context"
	"crypto/ecdh"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"cardkms/derive"
	"cardkms/kms"
	"cardkms/kms/ceremony"
	"cardkms/kms/fault"
	"cardkms/kms/hsm"
	"cardkms/kms/key"
	"cardkms/kms/secret"
)

func componentCommand() *cobra.Command {
	c := &cobra.Command{Use: "component", Short: "Key components, entered by their custodians on different days"}
	c.AddCommand(componentEnterCommand())
	return c
}

func componentEnterCommand() *cobra.Command {
	var file, value, custodian string
	c := &cobra.Command{
		Use:   "enter --ceremony FILE --custodian NAME [--value VALUE]",
		Short: "Enter one component and keep it, encrypted, for the day of the import",
		Long: `Enter the component of one custodian. The screen does not show it; it answers with
the component's key check value (KCV), which must be that of the ceremony's file.

The component is kept encrypted to a key pair of the token that exists for this
ceremony only. The last component of a key is not kept: its custodian enters it in
"cardkmsd ceremony run", so that this machine never has the whole key before.
--value is needed where a custodian has components of several keys.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := openConductor(cmd, file)
			if err != nil {
				return err
			}
			defer c.close()
			return c.enter(cmd.Context(), custodian, value)
		},
	}
	c.Flags().StringVar(&file, "ceremony", "", "`FILE` of the ceremony")
	c.Flags().StringVar(&custodian, "custodian", "", "`NAME` of the custodian, as the file has it")
	c.Flags().StringVar(&value, "value", "", "`VALUE` that the component is of, e.g. issuers/demo/keys/isd/kvn/30#master")
	_ = c.MarkFlagRequired("ceremony")
	_ = c.MarkFlagRequired("custodian")
	return c
}

// parted is a value that comes as components.
type parted struct {
	name      string
	algorithm key.Algorithm
	value     ceremony.Value
}

// parted returns the values of the file that come as components.
func (c *conductor) parted() (out []parted) {
	for _, k := range c.f.KEKs {
		if len(k.Components) > 0 {
			out = append(out, parted{k.Label, k.Algorithm, k.Value})
		}
	}
	for _, k := range c.f.Keys {
		for _, p := range []key.Part{key.Master, key.ENC, key.MAC, key.DEK} {
			if v := k.Values()[p]; v != nil && len(v.Components) > 0 {
				out = append(out, parted{valueName(k, p), k.Algorithm, *v})
			}
		}
	}
	return out
}

func (c *conductor) hasComponents() bool { return len(c.parted()) > 0 }

// place returns where the component with this index belongs.
func (c *conductor) place(value string, v ceremony.Value, i int) ceremony.Place {
	return ceremony.Place{Ceremony: c.f.Hex(), Value: value, Number: i + 1, Custodian: v.Components[i].Custodian}
}

// missing returns the indexes of the components that are not kept.
func (c *conductor) missing(name string, v ceremony.Value) (out []int, err error) {
	for i := range v.Components {
		has, err := c.kept.Has(c.place(name, v, i))
		if err != nil {
			return nil, err
		}
		if !has {
			out = append(out, i)
		}
	}
	return out, nil
}

// wanted finds the one component that a custodian has to enter.
func (c *conductor) wanted(custodian, value string) (p parted, index int, err error) {
	found := 0
	for _, one := range c.parted() {
		if value != "" && value != one.name {
			continue
		}
		for i, component := range one.value.Components {
			if component.Custodian == custodian {
				p, index = one, i
				found++
			}
		}
	}
	switch found {
	case 1:
		return p, index, nil
	case 0:
		return p, 0, fmt.Errorf("the file has no component of %s there", custodian)
	}
	return p, 0, fmt.Errorf("%s has components of %d values; say which one with --value", custodian, found)
}

func (c *conductor) enter(ctx context.Context, custodian, value string) error {
	p, i, err := c.wanted(custodian, value)
	if err != nil {
		return err
	}
	missing, err := c.missing(p.name, p.value)
	if err != nil {
		return err
	}
	at := c.place(p.name, p.value, i)
	if len(missing) == 1 && missing[0] == i {
		return errors.New("this is the last component, which is not kept: enter it in \"cardkmsd ceremony run\"")
	}
	if has, err := c.kept.Has(at); err != nil || has {
		return errors.Join(err, fault.New(fault.Conflict, "this component was entered already"))
	}
	if _, err := c.begin(ctx); err != nil {
		return err
	}
	if c.ended {
		return errEnded
	}
	pair, err := c.pair(ctx)
	if err != nil {
		return err
	}
	memory, err := secret.NewLocked(p.algorithm.Size())
	if err != nil {
		return err
	}
	defer memory.Free()
	component := memory.Take(p.algorithm.Size())
	if err := c.read(ctx, p, i, component); err != nil {
		return err
	}
	s := kms.CeremonyStep{Ceremony: c.f.Hex(), Step: componentStep(p, i), Op: kms.CeremonyComponent, Object: p.name, Detail: componentFacts(p, i)}
	err = c.node.service.CarryOut(ctx, c.by, s, func(context.Context) error {
		crashAt("before keeping")
		defer crashAt("after keeping")
		return c.kept.Keep(pair, at, component)
	})
	if err == nil {
		c.say("    done%s", inLine(componentFacts(p, i)))
		c.people.next()
	}
	return err
}

// componentStep names the step that enters a component, by its index.
func componentStep(p parted, i int) string { return fmt.Sprintf("component %d of %s", i+1, p.name) }

func componentFacts(p parted, i int) facts {
	one := p.value.Components[i]
	return facts{"custodian": one.Custodian, "number": fmt.Sprint(i + 1), "kcv": one.KCV}
}

// pair returns the key pair of the token for this ceremony's components.
func (c *conductor) pair(ctx context.Context) (ceremony.Pair, error) {
	label := c.f.PairLabel()
	public, err := c.node.token.GenerateExchange(ctx, label)
	if fault.CodeOf(err) == fault.Conflict {
		public, err = c.node.token.ExchangeKey(ctx, label)
	}
	return ceremony.Pair{Public: public, Private: exchanger{ctx, c.node.token, label}}, err
}

// exchanger is the private half of a pair.
type exchanger struct {
	ctx   context.Context // of the one run that it serves
	token *hsm.Token
	label string
}

// Exchange implements ceremony.Exchanger.
func (e exchanger) Exchange(peer *ecdh.PublicKey) (secret.Bytes, error) {
	return e.token.Exchange(e.ctx, e.label, peer)
}

// read has a custodian enter a component into room, and shows its check value, which
// the token computes. That is said to the one who knows the component, right after it
// was entered, and at no other time.
func (c *conductor) read(ctx context.Context, p parted, i int, room secret.Bytes) error {
	who := fmt.Sprintf("%s, component %d of %d of %s", p.value.Components[i].Custodian, i+1, len(p.value.Components), p.name)
	line, err := c.people.hidden(who)
	if err != nil {
		return fmt.Errorf("reading %s: %w", who, err)
	}
	err = ceremony.ReadComponent(line, p.algorithm, room)
	clear(line)
	if err != nil {
		return fmt.Errorf("%s: %w", who, err)
	}
	kcv, err := c.kcv(ctx, p.algorithm, room)
	if err != nil {
		return err
	}
	c.say("    %s: KCV %s (%s)", who, kcv.Value, kcv.Method)
	if !same(kcv, p.value.Components[i].KCV) {
		return fault.New(fault.ProofFailed, "that is not the check value of the component in the ceremony's file")
	}
	return nil
}

func same(kcv key.KCV, stated string) bool {
	return subtle.ConstantTimeCompare([]byte(text(kcv)), []byte(stated)) == 1
}

// kcv has the token compute the check value of a value, as a session object that is
// gone afterwards.
func (c *conductor) kcv(ctx context.Context, a key.Algorithm, value secret.Bytes) (key.KCV, error) {
	k, forget, err := c.node.token.ImportVolatile(ctx, "cardkms-component", a, derive.Static, value.Reveal())
	if err != nil {
		return key.KCV{}, err
	}
	defer forget()
	return c.node.token.KCV(ctx, k)
}

// combined brings the components of a value together, in locked memory that free
// wipes. The check value of the sum is compared and never shown: else whoever enters
// a component could learn about sums of their choice. A wrong one drops what is kept.
func (c *conductor) combined(ctx context.Context, name string, a key.Algorithm, v ceremony.Value) (sum secret.Bytes, free func(), err error) {
	missing, err := c.missing(name, v)
	if err != nil {
		return sum, nil, err
	}
	if len(missing) > 1 && !c.f.Together {
		return sum, nil, fault.New(fault.Conflict, fmt.Sprintf("%d components are not there; only the last one is entered here, the others by \"cardkmsd component enter\", each by its custodian, unless the file says together: true", len(missing)))
	}
	memory, err := secret.NewLocked((len(v.Components) + 1) * a.Size())
	if err != nil {
		return sum, nil, err
	}
	defer func() {
		if err != nil {
			memory.Free()
		}
	}()
	components, err := c.gather(ctx, parted{name, a, v}, memory)
	if err != nil {
		return sum, nil, err
	}
	sum = memory.Take(a.Size())
	if err = ceremony.Combine(a, sum, components...); err != nil {
		return sum, nil, err
	}
	kcv, err := c.kcv(ctx, a, sum)
	if err == nil && !same(kcv, v.KCV) {
		err = fault.New(fault.ProofFailed, "the check value of the sum is not the stated one; every component has to be entered again")
		for i := range v.Components {
			err = errors.Join(err, c.kept.Drop(c.place(name, v, i)))
		}
	}
	return sum, memory.Free, err
}

// gather opens the components that are kept and has the others entered.
func (c *conductor) gather(ctx context.Context, p parted, memory *secret.Locked) (out []secret.Bytes, err error) {
	pair, err := c.pair(ctx)
	if err != nil {
		return nil, err
	}
	for i := range p.value.Components {
		room, at := memory.Take(p.algorithm.Size()), c.place(p.name, p.value, i)
		has, err := c.kept.Has(at)
		if err != nil {
			return nil, err
		}
		if has {
			err = c.kept.Open(pair, at, room)
		} else if err = c.read(ctx, p, i, room); err == nil {
			c.people.next()
		}
		if err != nil {
			return nil, err
		}
		out = append(out, room)
	}
	return out, nil
}
