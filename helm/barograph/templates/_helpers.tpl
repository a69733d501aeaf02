{{/* Names, labels, and what several templates say alike. */}}

{{- define "barograph.fullname" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) }}{{ $name = printf "%s-%s" .Release.Name .Chart.Name }}{{ end -}}
{{- default $name .Values.fullnameOverride | trunc 46 | trimSuffix "-" -}}
{{- end }}

{{- define "barograph.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* One label finds the pods in all modes: pods of another Deployment have names and instances of their own. */}}
{{- define "barograph.selector" -}}
barograph-release: {{ include "barograph.fullname" . }}
{{- end }}

{{- define "barograph.testLabel" -}}
barograph-test: {{ include "barograph.fullname" . }}
{{- end }}

{{- define "barograph.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "barograph.fullname" .) .Values.serviceAccount.name }}{{ else }}{{ default "default" .Values.serviceAccount.name }}{{ end -}}
{{- end }}

{{/* A reference to an image: (list . .Values.image). A digest goes before a tag. */}}
{{- define "barograph.image" -}}
{{- $root := index . 0 }}{{ $image := index . 1 -}}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}{{ else }}{{ $image.repository }}:{{ default $root.Chart.AppVersion $image.tag }}{{ end -}}
{{- end }}

{{/* Deployment or StatefulSet: several pods have a ledger each. */}}
{{- define "barograph.workload" -}}
{{- if ne .Values.workload "auto" }}{{ .Values.workload }}{{ else if or (gt (int .Values.replicas) 1) .Values.autoscaling.enabled }}StatefulSet{{ else }}Deployment{{ end -}}
{{- end }}

{{- define "barograph.engineSocket" -}}/run/barograph/engine.sock{{- end }}

{{- define "barograph.adminScheme" -}}
{{ empty .Values.tls.admin.secret | ternary "http" "https" }}
{{- end }}

{{- define "barograph.gatewayScheme" -}}
{{ empty .Values.tls.gateway.secret | ternary "http" "https" }}
{{- end }}

{{/* The address of the admin listener, for who is in the pod. */}}
{{- define "barograph.admin" -}}
{{ include "barograph.adminScheme" . }}://{{ eq .Values.listen.host "[::]" | ternary "[::1]" "127.0.0.1" }}:{{ int .Values.listen.admin }}
{{- end }}

{{- define "barograph.graceSeconds" -}}
{{ dig "gateway" "grace_s" 20 .Values.config | float64 | ceil | int }}
{{- end }}

{{/* Replies get grace_s to end while the engine waits for them, and the sidecar's own drain may take as long again. */}}
{{- define "barograph.terminationSeconds" -}}
{{ add .Values.shutdown.settle (mul 2 (include "barograph.graceSeconds" .)) .Values.shutdown.engine .Values.shutdown.seal }}
{{- end }}

{{- define "barograph.rulesConfigMap" -}}
{{- if .Values.rules.configMap }}{{ .Values.rules.configMap }}{{ else if .Values.rules.files }}{{ include "barograph.fullname" . }}-rules{{ end -}}
{{- end }}

{{/* What the chart cannot make work is refused here, in a sentence. */}}
{{- define "barograph.check" -}}
{{- range $section, $keys := dict "engine" (list "listen" "model") "gateway" (list "listen" "upstream" "wrap" "tls") "sidecar" (list "admin" "ledger" "access" "tls") }}
{{- range $keys }}
{{- if hasKey (default dict (get $.Values.config $section)) . }}{{ fail (printf "config.%s.%s is set by the chart itself; expected no such key (see listen, model, upstream, ledger, secrets.access and tls)" $section .) }}{{ end }}
{{- end }}
{{- end }}
{{- range list "socket" "rules" }}
{{- if hasKey $.Values.config . }}{{ fail (printf "config.%s is set by the chart itself; expected no such key (see rules)" .) }}{{ end }}
{{- end }}
{{- if and (eq .Values.mode "wrapper") (not .Values.upstream) }}{{ fail "mode wrapper needs upstream, the address of the API that is wrapped, such as https://api.example.com" }}{{ end }}
{{- if and (ne .Values.mode "wrapper") .Values.upstream }}{{ fail (printf "upstream is for mode wrapper, and the mode is %s; expected no upstream" .Values.mode) }}{{ end }}
{{- if and (eq .Values.mode "attach") (or (gt (int .Values.replicas) 1) .Values.autoscaling.enabled) }}{{ fail "in mode attach the pods are those of your own Deployment; expected replicas 1 and no autoscaling here" }}{{ end }}
{{- if and (eq .Values.mode "attach") (eq .Values.workload "StatefulSet") }}{{ fail "mode attach makes no workload; expected workload auto" }}{{ end }}
{{- if and (eq .Values.mode "attach") (eq .Values.attach.listen "port") (not .Values.secrets.upstream.name) (not .Values.networkPolicy.enabled) }}{{ fail "whoever reaches vLLM's own port goes around the gateway; expected attach.listen socket, secrets.upstream (a key that only the gateway has), or networkPolicy.enabled" }}{{ end }}
{{- if and (eq .Values.attach.listen "port") .Values.attach.args }}{{ fail "attach.args replaces the container's own arguments; expected it beside attach.listen socket only" }}{{ end }}
{{- if and (eq .Values.mode "attach") (eq .Values.attach.listen "socket") (not .Values.attach.asUser) }}{{ fail "a Unix socket of vLLM's opens to its own user only; expected attach.asUser true beside attach.listen socket" }}{{ end }}
{{- if and (eq (include "barograph.workload" .) "Deployment") (gt (int .Values.replicas) 1) (eq .Values.ledger.volume "claim") }}{{ fail "several pods of a Deployment would share one ledger; expected workload auto or StatefulSet, or another ledger.volume" }}{{ end }}
{{- if and .Values.ledger.claim (or (ne .Values.ledger.volume "claim") (eq (include "barograph.workload" .) "StatefulSet")) }}{{ fail "ledger.claim is one claim for one pod; expected ledger.volume claim and a Deployment" }}{{ end }}
{{- if and .Values.rules.configMap .Values.rules.files }}{{ fail "rules.files and rules.configMap are both given; expected one of them" }}{{ end }}
{{- if and .Values.rules.files (not (hasKey .Values.rules.files .Values.rules.main)) }}{{ fail (printf "rules.main is %s, and rules.files has %s; expected the name of one of them" .Values.rules.main (keys .Values.rules.files | sortAlpha | join ", ")) }}{{ end }}
{{- range concat .Values.engine.env .Values.sidecar.env }}
{{- if and (hasKey . "value") (regexMatch "(?i)(token|password|secret|_key)$" .name) }}{{ fail (printf "env %s has its value written down; expected valueFrom with a secretKeyRef" .name) }}{{ end }}
{{- end }}
{{- range .Values.engine.args }}
{{- if regexMatch "^--(host|port|uds)(=|$)" (toString .) }}{{ fail (printf "engine.args has %s; the engine listens on a socket in the pod, so that nobody goes around the gateway" (toString . | splitList "=" | first)) }}{{ end }}
{{- end }}
{{- range concat .Values.engine.args .Values.attach.args }}
{{- if regexMatch "^--api-key(=|$)" (toString .) }}{{ fail "a key among the arguments can be read by whoever sees the pod; expected secrets.upstream" }}{{ end }}
{{- end }}
{{- $bank := .Values.bank }}
{{- if and (ne $bank.source "shipped") (not (eq $bank.source "image" | ternary $bank.image.reference (get $bank $bank.source))) }}{{ fail (printf "bank.source is %s; expected bank.%s to say which" $bank.source (eq $bank.source "image" | ternary "image.reference" $bank.source)) }}{{ end }}
{{- end }}
