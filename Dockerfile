# One base with the locked dependencies and what the services agree on (stubmail/); one short target for each service,
# which copies that service alone. No keys, no passwords, no accounts in any image.

FROM debian:trixie-slim AS debian
ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8
RUN echo 'Acquire::Retries "5";' > /etc/apt/apt.conf.d/80-retries

FROM debian AS os
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && update-ca-certificates \
 && rm -rf /var/lib/apt/lists/*

FROM os AS dependencies
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv
COPY requirements.lock /
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --no-compile --require-hashes -r /requirements.lock \
 && /opt/venv/bin/pip uninstall --yes pip

FROM os AS base
ENV PATH=/opt/venv/bin:/opt/stubmail/bin:$PATH PYTHONPATH=/opt/stubmail PYTHONUNBUFFERED=1 STUB_CONF=/etc/stubmail/stub.conf
RUN groupadd --gid 10001 stubmail \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/stubmail stubmail \
 && cd /var/lib && mkdir stubmail && cd stubmail && mkdir accounts hkp keys mail sent spool state store \
 && chown -R 10001:10001 . && chmod 700 . *
COPY --from=dependencies /opt/venv /opt/venv
COPY docker/stub.conf /etc/stubmail/stub.conf
COPY docker/bin /opt/stubmail/bin
COPY services/__init__.py /opt/stubmail/services/
COPY stubmail /opt/stubmail/stubmail
RUN python3 -m compileall -q /opt/venv /opt/stubmail
WORKDIR /var/lib/stubmail
USER 10001:10001
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["healthcheck"]

FROM base AS with-gpg
USER root
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gpg gpg-agent \
 && rm -rf /var/lib/apt/lists/*
USER 10001:10001

FROM base AS post_manager
COPY services/post_manager /opt/stubmail/services/post_manager
EXPOSE 8080 2225/udp
CMD ["post_manager"]

FROM base AS keyserver
COPY services/keyserver /opt/stubmail/services/keyserver
EXPOSE 11371
CMD ["keyserver"]

FROM base AS pop3d
COPY services/pop3d /opt/stubmail/services/pop3d
EXPOSE 110 995
CMD ["pop3d"]

FROM with-gpg AS smtp2stub
COPY services/smtp2stub /opt/stubmail/services/smtp2stub
COPY commands /opt/stubmail/commands
EXPOSE 25
CMD ["smtp2stub"]

FROM with-gpg AS http2mbox
COPY services/http2mbox /opt/stubmail/services/http2mbox
COPY commands /opt/stubmail/commands
CMD ["http2mbox", "--interval", "1"]

# Makes keys and accounts on first start, then ends.
FROM with-gpg AS init
COPY commands /opt/stubmail/commands
HEALTHCHECK NONE
CMD ["provision-domains"]

# The authoritative name server of the compose network.
FROM debian AS dns
RUN apt-get update \
 && apt-get install --yes --no-install-recommends bind9-dnsutils nsd \
 && rm -rf /var/lib/apt/lists/* /etc/nsd/*
COPY docker/nsd.conf /etc/nsd/nsd.conf
COPY docker/bin/serve-zone /usr/local/bin/
COPY dns/*.example /etc/nsd/
USER nsd
EXPOSE 53/udp 53/tcp
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s --retries=3 CMD ["dig", "+short", "+time=2", "@127.0.0.1", "example.", "SOA"]
CMD ["serve-zone"]

# compose.scale.yaml: the database that the replicas of a store share. Its user has the services' number, for the volume
# with the password.
FROM debian AS database
ENV PATH=/usr/lib/postgresql/17/bin:$PATH PGHOST=/tmp
RUN groupadd --gid 10001 postgres \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/postgresql postgres \
 && mkdir /etc/postgresql-common \
 && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf \
 && apt-get update \
 && apt-get install --yes --no-install-recommends postgresql-17 \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o postgres -g postgres -m 700 /var/lib/postgresql
COPY docker/postgresql.conf docker/pg_hba.conf /etc/postgresql/
COPY docker/bin/serve-database /usr/local/bin/
USER 10001:10001
EXPOSE 5432
# SIGINT: open transactions are rolled back; SIGTERM would wait for connections that never end.
STOPSIGNAL SIGINT
HEALTHCHECK --interval=2s --timeout=5s --start-period=30s --retries=3 CMD ["psql", "-qAtX", "-c", "SELECT 1", "postgres"]
CMD ["serve-database"]

# compose.scale.yaml: one address for all replicas of a store.
FROM debian AS balancer
RUN apt-get update \
 && apt-get install --yes --no-install-recommends haproxy \
 && rm -rf /var/lib/apt/lists/*
COPY docker/haproxy.cfg /etc/haproxy/haproxy.cfg
USER haproxy
EXPOSE 8080
# SIGUSR1: no new connections, and an end when the last request has its answer.
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=2s --timeout=5s --start-period=10s --retries=3 CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8404 && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 && read -rt 4 line <&3 && [[ $line == *' 200 '* ]]"]
CMD ["haproxy", "-db", "-f", "/etc/haproxy/haproxy.cfg"]

# A real mail server for the domain that has no stub mail.
FROM debian AS legacy
RUN apt-get update \
 && apt-get install --yes --no-install-recommends postfix \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o mail -g mail -m 700 /var/mail/legacy
COPY docker/postfix-main.cf /etc/postfix/main.cf
EXPOSE 25
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s --retries=3 CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/25 && read -rt 4 line <&3 && [[ $line == 220* ]] && printf 'QUIT\\r\\n' >&3"]
CMD ["postfix", "start-fg"]

# What a user of the network has: mail programs, gpg and dig.
FROM debian AS client
RUN apt-get update \
 && apt-get install --yes --no-install-recommends bind9-dnsutils curl dirmngr gnupg mpop swaks \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home client
USER client
ENV GNUPGHOME=/tmp/gnupg
CMD ["bash"]
