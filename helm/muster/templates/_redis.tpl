{{/*
One Redis: Secret with `url` and its configuration, Service, StatefulSet. What it confirms is on its disk.
(dict "root" . "name" NAME "namespace" NAMESPACE "annotations" MAP "storage" SIZE)
*/}}
{{- define "muster.redis" -}}
{{- $redis := .root.Values.redis }}
{{- $metadata := include "muster.redis.metadata" . }}
{{- $login := ternary "" (printf ":%s@" $redis.password) (empty $redis.password) }}
apiVersion: v1
kind: Secret
metadata:
  {{- $metadata | nindent 2 }}
stringData:
  url: {{ printf "redis://%s%s.%s.svc:6379/0" $login .name .namespace }}
  redis.conf: |
    dir /data
    appendonly yes
    appendfsync always
    save ""
    maxmemory-policy noeviction
    protected-mode no
    {{- with $redis.password }}
    requirepass {{ . }}
    {{- end }}
---
apiVersion: v1
kind: Service
metadata:
  {{- $metadata | nindent 2 }}
spec:
  selector:
    {{- include "muster.selector" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .name }}
  ports:
    - {name: redis, port: 6379, targetPort: redis, protocol: TCP}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  {{- $metadata | nindent 2 }}
spec:
  serviceName: {{ .name }}
  replicas: 1
  selector:
    matchLabels:
      {{- include "muster.selector" .root | nindent 6 }}
      app.kubernetes.io/component: {{ .name }}
  template:
    metadata:
      labels:
        {{- include "muster.labels" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .name }}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      {{- with include "muster.pullSecrets" .root }}{{ . | nindent 6 }}{{ end }}
      securityContext:
        {{- include "muster.podSecurity" .root | nindent 8 }}
      containers:
        - name: redis
          image: {{ include "muster.image" (list .root $redis.image) }}
          imagePullPolicy: {{ $redis.image.pullPolicy }}
          command: [redis-server, /etc/redis/redis.conf]
          ports:
            - {name: redis, containerPort: 6379, protocol: TCP}
          securityContext:
            {{- include "muster.containerSecurity" .root | nindent 12 }}
          resources:
            requests: {cpu: 50m, memory: 64Mi}
            limits: {memory: 512Mi}
          readinessProbe:
            tcpSocket: {port: redis}
            periodSeconds: 2
          volumeMounts:
            - {name: data, mountPath: /data}
            - {name: configuration, mountPath: /etc/redis, readOnly: true}
      volumes:
        - name: configuration
          secret:
            secretName: {{ .name }}
            items: [{key: redis.conf, path: redis.conf}]
        {{- if not .storage }}
        - name: data
          emptyDir: {}
        {{- end }}
  {{- with .storage }}
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: {{ . }}}}
  {{- end }}
{{- end }}

{{- define "muster.redis.metadata" -}}
name: {{ .name }}
namespace: {{ .namespace }}
labels:
  {{- include "muster.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .name }}
{{- with .annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
