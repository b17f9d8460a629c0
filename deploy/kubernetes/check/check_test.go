// Package check decodes the manifests as strictly as Kubernetes' own types allow: a field that
// does not exist, or has another type, fails.
package check

import (
	"os"
	"path/filepath"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"
)

func TestManifests(t *testing.T) {
	k := decode[types.Kustomization](t, "kustomization.yaml")
	decode[corev1.Namespace](t, "namespace.yaml")
	decode[corev1.ServiceAccount](t, "serviceaccount.yaml")
	service := decode[corev1.Service](t, "service.yaml")
	set := decode[appsv1.StatefulSet](t, "statefulset.yaml")
	budget := decode[policyv1.PodDisruptionBudget](t, "poddisruptionbudget.yaml")
	network := decode[networkingv1.NetworkPolicy](t, "networkpolicy.yaml")

	found, err := filepath.Glob("../*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if want := len(k.Resources) + 2; len(found) != want { // the kustomization itself, and the configuration
		t.Errorf("%d files, %d of which the kustomization knows", len(found), want)
	}
	labels := set.Spec.Template.Labels
	for name, selector := range map[string]map[string]string{
		"the service": service.Spec.Selector, "the set": set.Spec.Selector.MatchLabels,
		"the budget": budget.Spec.Selector.MatchLabels, "the network policy": network.Spec.PodSelector.MatchLabels,
	} {
		for k, v := range selector {
			if labels[k] != v {
				t.Errorf("%s selects other pods", name)
			}
		}
	}
	if set.Spec.ServiceName != service.Name {
		t.Error("the set's service is another one")
	}
	volumes := map[string]bool{}
	for _, v := range set.Spec.Template.Spec.Volumes {
		volumes[v.Name] = true
	}
	for _, v := range set.Spec.VolumeClaimTemplates {
		volumes[v.Name] = true
	}
	for _, c := range set.Spec.Template.Spec.Containers {
		s := c.SecurityContext
		if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			t.Errorf("%s may more than it needs", c.Name)
		}
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				t.Errorf("%s mounts %s, which is nowhere", c.Name, m.Name)
			}
			delete(volumes, m.Name)
		}
	}
	if len(volumes) > 0 {
		t.Errorf("nobody mounts %v", volumes)
	}
}

func decode[T any](t *testing.T, name string) (out T) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(b, &out); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return out
}

// TestStrict: the check can fail.
func TestStrict(t *testing.T) {
	var s appsv1.StatefulSet
	if yaml.UnmarshalStrict([]byte("spec: {replica: 3}"), &s) == nil || yaml.UnmarshalStrict([]byte("spec: {replicas: three}"), &s) == nil {
		t.Error("a wrong manifest was accepted")
	}
}
