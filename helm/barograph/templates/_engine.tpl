{{/* The engine's container, for modes engine and wrapper. It listens on a Unix socket, so that nobody goes around the gateway. */}}

{{- define "barograph.engine" -}}
{{- $vllm := and (eq .Values.engine.kind "vllm") (eq .Values.mode "engine") -}}
- name: engine
  image: {{ include "barograph.image" (list . .Values.engine.image) }}
  imagePullPolicy: {{ .Values.engine.image.pullPolicy }}
  args:
  - engine
  - --config
  - /etc/barograph/barograph.yaml
  {{- if $vllm }}
  - vllm
  - --
  - {{ .Values.model | quote }}
  {{- range .Values.engine.args }}
  - {{ . | quote }}
  {{- end }}
  {{- end }}
  env:
  {{- include "barograph.engineEnv" . | nindent 2 }}
  startupProbe:
    {{- include "barograph.engineProbe" . | nindent 4 }}
    periodSeconds: 5
    timeoutSeconds: 5
    failureThreshold: {{ div (add (int .Values.engine.startupSeconds) 4) 5 }}
  livenessProbe:
    {{- include "barograph.engineProbe" . | nindent 4 }}
    periodSeconds: 15
    timeoutSeconds: 5
    failureThreshold: 8
  readinessProbe:
    {{- include "barograph.engineProbe" . | nindent 4 }}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  lifecycle:
    preStop: {{- include "barograph.preStop" (list . "barograph") | nindent 6 }}
  resources: {{- toYaml .Values.engine.resources | nindent 4 }}
  securityContext: {{- include "barograph.containerSecurity" . | nindent 4 }}
  volumeMounts:
  {{- include "barograph.engineMounts" . | nindent 2 }}
  - {name: cache, mountPath: /cache}
  - {name: engine-tmp, mountPath: /tmp}
  - {name: shm, mountPath: /dev/shm}
  {{- if .Values.engine.models.claim }}
  - {name: models, mountPath: {{ .Values.engine.models.mountPath }}, readOnly: true}
  {{- end }}
{{- end }}

{{/*
The engine is told to stop when the replies have ended: (list . "barograph"), the command by which ours is called. The sidecar gets its SIGTERM
only after the engine has ended, so nobody but the engine's hook can wait for them.
*/}}
{{- define "barograph.preStop" -}}
{{- $root := index . 0 -}}
exec:
  command:
  - /bin/sh
  - -c
  - sleep {{ int $root.Values.shutdown.settle }}; exec {{ index . 1 }} idle --admin {{ include "barograph.admin" $root }} --seconds {{ include "barograph.graceSeconds" $root }}
{{- end }}

{{- define "barograph.engineVolumes" -}}
- name: cache
  {{- if .Values.engine.cache.claim }}
  persistentVolumeClaim: {claimName: {{ .Values.engine.cache.claim }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ .Values.engine.cache.size }}}
  {{- end }}
- name: engine-tmp
  emptyDir: {sizeLimit: 1Gi}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.engine.shm }}}
{{- if .Values.engine.models.claim }}
- name: models
  persistentVolumeClaim: {claimName: {{ .Values.engine.models.claim }}, readOnly: true}
{{- end }}
{{- end }}

{{/* The template of the workloads' pods. */}}
{{- define "barograph.podTemplate" -}}
metadata:
  labels:
    # No version is among them: a new chart alone makes no new pods.
    app.kubernetes.io/name: {{ .Chart.Name }}
    app.kubernetes.io/instance: {{ .Release.Name }}
    {{- include "barograph.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    {{- include "barograph.podAnnotations" . | nindent 4 }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "barograph.serviceAccount" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "barograph.terminationSeconds" . }}
  securityContext: {{- include "barograph.podSecurity" . | nindent 4 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
  {{- end }}
  {{- range $key := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
  {{- with get $.Values $key }}
  {{ $key }}: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  initContainers:
  {{- include "barograph.sidecar" . | nindent 2 }}
  containers:
  {{- include "barograph.engine" . | nindent 2 }}
  volumes:
  {{- include "barograph.volumes" . | nindent 2 }}
  {{- include "barograph.engineVolumes" . | nindent 2 }}
{{- end }}

{{- define "barograph.engineEnv" -}}
- {name: BAROGRAPH_CONFIG, value: /etc/barograph/barograph.yaml}
# A user without a line in /etc/passwd: torch asks for its name.
- {name: USER, value: barograph}
- {name: HOME, value: /cache/home}
- {name: XDG_CACHE_HOME, value: /cache}
- {name: HF_HOME, value: /cache/huggingface}
- {name: BAROGRAPH_HOME, value: /cache/barograph}
{{- if and (eq .Values.engine.kind "vllm") (eq .Values.mode "engine") }}
- {name: VLLM_CACHE_ROOT, value: /cache/vllm}
- {name: TORCHINDUCTOR_CACHE_DIR, value: /cache/inductor}
- {name: TRITON_CACHE_DIR, value: /cache/triton}
- {name: VLLM_NO_USAGE_STATS, value: "1"}
{{- end }}
{{- include "barograph.secretEnv" (list "BAROGRAPH_TAP_KEY" .Values.secrets.tap "key") }}
{{- include "barograph.secretEnv" (list "HF_TOKEN" .Values.secrets.huggingface "key") }}
{{- with .Values.engine.env }}
{{ toYaml . }}
{{- end }}
{{- end }}
