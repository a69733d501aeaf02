{{/* The parts of a pod, for the workloads and for the patch of mode attach. */}}

{{- define "barograph.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ int .Values.user.uid }}
runAsGroup: {{ int .Values.user.gid }}
fsGroup: {{ int .Values.user.gid }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "barograph.containerSecurity" -}}
runAsNonRoot: true
runAsUser: {{ int .Values.user.uid }}
runAsGroup: {{ int .Values.user.gid }}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* A variable out of a Secret, if there is one: (list "NAME" .Values.secrets.x "key") */}}
{{- define "barograph.secretEnv" -}}
{{- $secret := index . 1 -}}
{{- if $secret.name }}
- name: {{ index . 0 }}
  valueFrom: {secretKeyRef: {name: {{ $secret.name }}, key: {{ get $secret (index . 2) }}}}
{{- end }}
{{- end }}

{{- define "barograph.sidecarEnv" -}}
- name: HOME
  value: /tmp
{{- $s := .Values.secrets }}
{{- include "barograph.secretEnv" (list "BAROGRAPH_ADMIN_TOKEN" $s.admin "key") }}
{{- include "barograph.secretEnv" (list "BAROGRAPH_TAP_KEY" $s.tap "key") }}
{{- include "barograph.secretEnv" (list "BAROGRAPH_UPSTREAM_KEY" $s.upstream "key") }}
{{- include "barograph.secretEnv" (list "BAROGRAPH_AUDIT_KEY" $s.audit "key") }}
{{- include "barograph.secretEnv" (list "BAROGRAPH_VAULT_KEY" $s.vault "key") }}
{{- include "barograph.secretEnv" (list "BAROGRAPH_KAFKA_PASSWORD" $s.kafka "key") }}
{{- include "barograph.secretEnv" (list "BAROGRAPH_KAFKA_KEY_PASSWORD" $s.kafkaKey "key") }}
{{- include "barograph.secretEnv" (list "OTEL_EXPORTER_OTLP_HEADERS" $s.otel "key") }}
{{- include "barograph.secretEnv" (list "AWS_ACCESS_KEY_ID" $s.archive "accessKey") }}
{{- include "barograph.secretEnv" (list "AWS_SECRET_ACCESS_KEY" $s.archive "secretKey") }}
{{- range $s.targets }}
{{- include "barograph.secretEnv" (list .env . "key") }}
{{- end }}
{{- with .Values.sidecar.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What both read: the file, the bank, and the folder in which they meet. */}}
{{- define "barograph.sharedMounts" -}}
- {name: barograph-run, mountPath: /run/barograph}
- {name: barograph-config, mountPath: /etc/barograph/barograph.yaml, subPath: barograph.yaml, readOnly: true}
{{- if ne .Values.bank.source "shipped" }}
- {name: barograph-bank, mountPath: /etc/barograph/bank, readOnly: true}
{{- end }}
{{- end }}

{{/* Who waits for replies before the engine stops trusts the admin address by its certificate; the key stays with the sidecar. */}}
{{- define "barograph.engineMounts" -}}
{{- include "barograph.sharedMounts" . }}
{{- if .Values.tls.admin.secret }}
- {name: barograph-tls-trust, mountPath: /etc/barograph/tls/admin, readOnly: true}
{{- end }}
{{- end }}

{{/* A native sidecar: it listens before the engine starts, and gets its SIGTERM when the engine has ended. */}}
{{- define "barograph.sidecar" -}}
{{- $scheme := include "barograph.adminScheme" . | upper -}}
- name: barograph
  image: {{ include "barograph.image" (list . .Values.image) }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  restartPolicy: Always
  args: [sidecar, --config, /etc/barograph/barograph.yaml]
  env:
  {{- include "barograph.sidecarEnv" . | nindent 2 }}
  ports:
  - {name: barograph-gw, containerPort: {{ int .Values.listen.gateway }}}
  - {name: barograph-admin, containerPort: {{ int .Values.listen.admin }}}
  # The engine starts when this has passed: its tap finds the socket.
  startupProbe:
    httpGet: {path: /live, port: barograph-admin, scheme: {{ $scheme }}}
    periodSeconds: 2
    timeoutSeconds: 2
    failureThreshold: 60
  livenessProbe:
    httpGet: {path: /live, port: barograph-admin, scheme: {{ $scheme }}}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  readinessProbe:
    httpGet: {path: /health, port: barograph-admin, scheme: {{ $scheme }}}
    periodSeconds: 5
    timeoutSeconds: 3
    failureThreshold: 2
  resources: {{- toYaml .Values.sidecar.resources | nindent 4 }}
  securityContext: {{- include "barograph.containerSecurity" . | nindent 4 }}
  volumeMounts:
  {{- include "barograph.sharedMounts" . | nindent 2 }}
  - {name: barograph-ledger, mountPath: /var/lib/barograph}
  - {name: barograph-tmp, mountPath: /tmp}
  {{- if include "barograph.rulesConfigMap" . }}
  - {name: barograph-rules, mountPath: /etc/barograph/rules, readOnly: true}
  {{- end }}
  {{- if .Values.secrets.access.name }}
  - {name: barograph-access, mountPath: /etc/barograph/access, readOnly: true}
  {{- end }}
  {{- if .Values.tls.gateway.secret }}
  - {name: barograph-tls-gateway, mountPath: /etc/barograph/tls/gateway, readOnly: true}
  {{- end }}
  {{- if .Values.tls.admin.secret }}
  - {name: barograph-tls-admin, mountPath: /etc/barograph/tls/admin, readOnly: true}
  {{- end }}
  {{- range .Values.secrets.files }}
  - {name: barograph-secret-{{ .name }}, mountPath: {{ .mountPath }}, readOnly: true}
  {{- end }}
  {{- if and (ne .Values.mode "attach") .Values.engine.models.claim }}
  # A model is called by its folder's name where the folder is to be seen, and both must call it the same.
  - {name: models, mountPath: {{ .Values.engine.models.mountPath }}, readOnly: true}
  {{- end }}
{{- end }}

{{/* Volumes of the sidecar's own and those it shares. */}}
{{- define "barograph.volumes" -}}
{{- $name := include "barograph.fullname" . -}}
- name: barograph-run
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.sidecar.run }}}
- name: barograph-config
  configMap: {name: {{ $name }}-config}
- name: barograph-tmp
  emptyDir: {sizeLimit: 256Mi}
{{- with include "barograph.rulesConfigMap" . }}
- name: barograph-rules
  configMap: {name: {{ . }}}
{{- end }}
{{- if eq .Values.bank.source "configMap" }}
- name: barograph-bank
  configMap: {name: {{ .Values.bank.configMap }}}
{{- else if eq .Values.bank.source "claim" }}
- name: barograph-bank
  persistentVolumeClaim: {claimName: {{ .Values.bank.claim }}, readOnly: true}
{{- else if eq .Values.bank.source "image" }}
- name: barograph-bank
  image: {reference: {{ .Values.bank.image.reference }}, pullPolicy: {{ .Values.bank.image.pullPolicy }}}
{{- end }}
{{- if eq .Values.ledger.volume "emptyDir" }}
- name: barograph-ledger
  emptyDir: {sizeLimit: {{ .Values.ledger.size }}}
{{- else if eq .Values.ledger.volume "ephemeral" }}
- name: barograph-ledger
  ephemeral:
    volumeClaimTemplate:
      spec: {{- include "barograph.claimSpec" . | nindent 8 }}
{{- else if eq (include "barograph.workload" .) "Deployment" }}
- name: barograph-ledger
  persistentVolumeClaim: {claimName: {{ default (printf "%s-ledger" $name) .Values.ledger.claim }}}
{{- end }}
{{- with .Values.secrets.access }}
{{- if .name }}
- name: barograph-access
  secret: {secretName: {{ .name }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- with .Values.tls.gateway.secret }}
- name: barograph-tls-gateway
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .Values.tls.admin.secret }}
- name: barograph-tls-admin
  secret: {secretName: {{ . }}, defaultMode: 0440}
- name: barograph-tls-trust
  secret: {secretName: {{ . }}, defaultMode: 0440, items: [{key: tls.crt, path: tls.crt}]}
{{- end }}
{{- range .Values.secrets.files }}
- name: barograph-secret-{{ .name }}
  secret: {secretName: {{ .name }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{- define "barograph.claimSpec" -}}
accessModes: [ReadWriteOnce]
{{- with .Values.ledger.storageClass }}
storageClassName: {{ . }}
{{- end }}
resources: {requests: {storage: {{ .Values.ledger.size }}}}
{{- end }}

{{/* Annotations by which a changed file makes new pods. Rules are not among them: the sidecar reads changed ones by itself. */}}
{{- define "barograph.podAnnotations" -}}
checksum/config: {{ include "barograph.config" . | sha256sum }}
{{- end }}

{{/* Is a server there, on a Unix socket, and does it say 200? With nothing but Python, which every image with an engine has. */}}
{{- define "barograph.engineProbe" -}}
exec:
  command:
  - python3
  - -c
  - |
    import socket, sys
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(4)
    s.connect("{{ include "barograph.engineSocket" . }}")
    s.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    sys.exit(s.recv(64).split()[1:2] != [b"200"])
{{- end }}
