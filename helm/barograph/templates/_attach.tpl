{{/* Mode attach: what is added to a Deployment that runs vLLM already. Lists are merged by name, so all of ours begin with barograph. */}}

{{- define "barograph.patch" -}}
spec:
  {{- if eq .Values.ledger.volume "claim" }}
  # Two pods at once would want the same ledger.
  replicas: 1
  strategy: {$retainKeys: [type], type: Recreate}
  {{- end }}
  template:
    metadata:
      labels:
        {{- include "barograph.selector" . | nindent 8 }}
        {{- with .Values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        {{- include "barograph.podAnnotations" . | nindent 8 }}
        {{- with .Values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: {{ include "barograph.terminationSeconds" . }}
      securityContext: {fsGroup: {{ int .Values.user.gid }}, fsGroupChangePolicy: OnRootMismatch}
      {{- with .Values.imagePullSecrets }}
      imagePullSecrets:
      {{- range . }}
      - name: {{ . }}
      {{- end }}
      {{- end }}
      initContainers:
      {{- if eq .Values.attach.tap "copy" }}
      - name: barograph-tap
        image: {{ include "barograph.image" (list . .Values.image) }}
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        command: [python3, -c, "import shutil, sys; shutil.copytree(*sys.argv[1:], dirs_exist_ok=True)", {{ .Values.attach.tapPath }}, /barograph]
        resources:
          requests: {cpu: 50m, memory: 64Mi}
          limits: {cpu: "1", memory: 256Mi}
        securityContext: {{- include "barograph.containerSecurity" . | nindent 10 }}
        volumeMounts:
        - {name: barograph-tap, mountPath: /barograph}
      {{- end }}
      {{- include "barograph.sidecar" . | nindent 6 }}
      containers:
      - name: {{ .Values.attach.container }}
        {{- if eq .Values.attach.tap "image" }}
        image: {{ include "barograph.image" (list . .Values.engine.image) }}
        imagePullPolicy: {{ .Values.engine.image.pullPolicy }}
        {{- with .Values.attach.command }}
        command: {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- end }}
        {{- if eq .Values.attach.listen "socket" }}
        args:
        {{- range .Values.attach.args }}
        - {{ . | quote }}
        {{- end }}
        - --uds
        - {{ include "barograph.engineSocket" . }}
        {{- end }}
        env:
        - {name: BAROGRAPH_CONFIG, value: /etc/barograph/barograph.yaml}
        {{- if eq .Values.attach.tap "copy" }}
        - {name: PYTHONPATH, value: /barograph}
        {{- end }}
        {{- if .Values.attach.asUser }}
        - {name: USER, value: barograph}
        {{- end }}
        {{- with include "barograph.attachSecrets" . }}
        {{- trim . | nindent 8 }}
        {{- end }}
        {{- if eq .Values.attach.listen "socket" }}
        # It listens on no port any more. (null takes the other kind of probe away.)
        {{- range list "startupProbe" "livenessProbe" "readinessProbe" }}
        {{ . }}:
          {{- include "barograph.engineProbe" $ | nindent 10 }}
          httpGet: null
          tcpSocket: null
          grpc: null
          timeoutSeconds: 5
          periodSeconds: {{ eq . "livenessProbe" | ternary 15 5 }}
          failureThreshold: {{ get (dict "startupProbe" (div (add (int $.Values.engine.startupSeconds) 4) 5) "livenessProbe" 8 "readinessProbe" 3) . }}
        {{- end }}
        {{- end }}
        lifecycle:
          preStop:
            {{- include "barograph.preStop" (list . "python3 -m monitor") | nindent 12 }}
            httpGet: null
            tcpSocket: null
            sleep: null
        {{- if .Values.attach.asUser }}
        securityContext: {runAsNonRoot: true, runAsUser: {{ int .Values.user.uid }}, runAsGroup: {{ int .Values.user.gid }}}
        {{- end }}
        volumeMounts:
        {{- include "barograph.engineMounts" . | nindent 8 }}
        {{- if eq .Values.attach.tap "copy" }}
        - {name: barograph-tap, mountPath: /barograph, readOnly: true}
        {{- end }}
      volumes:
      {{- include "barograph.volumes" . | nindent 6 }}
      {{- if eq .Values.attach.tap "copy" }}
      - name: barograph-tap
        emptyDir: {sizeLimit: 1Gi}
      {{- end }}
{{- end }}

{{- define "barograph.attachSecrets" -}}
{{- include "barograph.secretEnv" (list "BAROGRAPH_TAP_KEY" .Values.secrets.tap "key") }}
{{- if eq .Values.attach.listen "port" }}
{{- include "barograph.secretEnv" (list "VLLM_API_KEY" .Values.secrets.upstream "key") }}
{{- end }}
{{- end }}
