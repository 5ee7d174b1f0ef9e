{{/* What all objects of the release are found by. */}}
{{- define "stolon.labels" -}}
app.kubernetes.io/name: stolon
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* What the pods of a component are found by, also by the components themselves. Arguments: root, component. */}}
{{- define "stolon.component" -}}
component: stolon-{{ .component }}
stolon-cluster: {{ .root.Values.clusterName }}
{{- end }}

{{/* How a daemon finds its pod and the store. Arguments: root, prefix. */}}
{{- define "stolon.env" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{ include "stolon.store" . }}
{{- end }}

{{/* The flags for the store, which all programs share. Arguments: root, prefix. */}}
{{- define "stolon.store" -}}
- name: {{ .prefix }}_CLUSTER_NAME
  value: {{ .root.Values.clusterName | quote }}
- name: {{ .prefix }}_STORE_BACKEND
  value: {{ .root.Values.store.backend | quote }}
{{- if eq .root.Values.store.backend "kubernetes" }}
- name: {{ .prefix }}_KUBE_RESOURCE_KIND
  value: configmap
{{- else }}
- name: {{ .prefix }}_STORE_ENDPOINTS
  value: {{ required "store.endpoints: where the store is" .root.Values.store.endpoints | quote }}
{{- end }}
{{- end }}

{{/* Pods are no more than they need to be. Arguments: root, account. */}}
{{- define "stolon.pod" -}}
serviceAccountName: {{ .root.Release.Name }}{{ .account }}
# Only the store in Kubernetes asks the API server anything.
automountServiceAccountToken: {{ eq .root.Values.store.backend "kubernetes" }}
securityContext:
  runAsNonRoot: true
  runAsUser: 999
  runAsGroup: 999
  # A new volume is made the group's, so that the keeper can write it; one that is that already is left
  # alone, or PostgreSQL would refuse data that its group may write.
  fsGroup: 999
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "stolon.container" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Where the pods of a component may run. Arguments: root, component, values. */}}
{{- define "stolon.placement" -}}
{{- $required := and (eq .component "keeper") .root.Values.antiAffinity.keepersRequired -}}
affinity:
  podAntiAffinity:
{{- if $required }}
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: {{ .root.Values.antiAffinity.topologyKey }}
        labelSelector:
          matchLabels:
            {{- include "stolon.component" . | nindent 12 }}
{{- else }}
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: {{ .root.Values.antiAffinity.topologyKey }}
          labelSelector:
            matchLabels:
              {{- include "stolon.component" . | nindent 14 }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Evictions take one pod of a component at a time. Arguments: root, component. */}}
{{- define "stolon.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .root.Release.Name }}-{{ .component }}
  labels:
    {{- include "stolon.labels" .root | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "stolon.component" . | nindent 6 }}
{{- end }}
