{{- /* What is fixed about the five services: database role, what they serve and call, what they are given. */ -}}
{{- define "parapet.services" -}}
integration-api:
  role: parapet_api
  serves: []
  calls: [audit-writer, identity-sync-worker, mitigation-executor]
  grpc: true
  keys: []
  egress: false
identity-sync-worker:
  role: parapet_sync
  serves: [DirectoryService, RemovalService]
  calls: []
  grpc: true
  keys: [integration]
  egress: true
  queue: sync.requested
credential-validator:
  role: parapet_validator
  serves: []
  calls: []
  grpc: false
  keys: [integration, leak]
  egress: true
  queue: validation.due
mitigation-executor:
  role: parapet_mitigation
  serves: [ContainmentService]
  calls: []
  grpc: true
  keys: [integration]
  egress: true
  queue: mitigation.due
audit-writer:
  role: parapet_audit
  serves: [AuditQueryService]
  calls: []
  grpc: true
  keys: []
  egress: false
{{- end }}

{{- define "parapet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Name of an object of a service: (list root service). */ -}}
{{- define "parapet.name" -}}
{{ include "parapet.fullname" (index . 0) }}-{{ index . 1 }}
{{- end }}

{{- /* What selects the pods of everything (list root) or of one component (list root component). */ -}}
{{- define "parapet.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- if gt (len .) 1 }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}
{{- end }}

{{- define "parapet.labels" -}}
{{- $root := index . 0 -}}
{{ include "parapet.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* metadata of an object: (list root component name [annotations]). */ -}}
{{- define "parapet.metadata" -}}
{{- $root := index . 0 -}}
{{- $annotations := dict -}}
{{- if gt (len .) 3 }}{{ $annotations = index . 3 }}{{ end -}}
name: {{ index . 2 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "parapet.labels" (ternary (list $root (index . 1)) (list $root) (ne (index . 1) "")) | nindent 2 }}
{{- with merge (dict) $annotations $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The image of a program: (list root program). */ -}}
{{- define "parapet.image" -}}
{{- $image := (index . 0).Values.image -}}
{{- with $image.registry }}{{ . }}/{{ end -}}
{{ $image.repository }}-{{ index . 1 -}}
{{- $digest := get $image.digests (index . 1) -}}
{{- if $digest -}}
@{{ $digest }}
{{- else -}}
:{{ default (index . 0).Chart.AppVersion $image.tag }}
{{- end -}}
{{- end }}

{{- define "parapet.imagePull" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "parapet.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "parapet.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: { drop: [ALL] }
{{- end }}

{{- /* Whether the number of pods of a service changes by itself: (list root service); empty for no. */ -}}
{{- define "parapet.scaled" -}}
{{- $scaling := get (index . 0).Values.autoscaling (index . 1) -}}
{{- if and $scaling $scaling.enabled }}yes{{ end -}}
{{- end }}
