#!/bin/sh
# Inside the build of an image: put what Python needs to run, and no more, into a folder: rootfs.sh FOLDER
# It comes from installed Debian packages, so a scanner finds their versions in var/lib/dpkg/status.d.
set -eu
root=$1 uid=65532

# Without these modules go libraries that a server has no use for: a terminal's, Berkeley's database, NIS.
without="_curses _curses_panel readline _dbm _gdbm nis _sqlite3 audioop ossaudiodev _tkinter"
packages="base-files gcc-12-base libc6 libgcc-s1 libstdc++6 zlib1g libbz2-1.0 liblzma5 libexpat1 libffi8 libcrypt1 libssl3 libuuid1
    libpython3.11-minimal libpython3.11-stdlib python3.11-minimal ca-certificates"

mkdir -p "$root/usr/bin" "$root/usr/lib/ssl" "$root/usr/lib64" "$root/etc/ssl/certs" "$root/var/lib/dpkg/status.d" "$root/run" "$root/tmp"
ln -s usr/bin "$root/bin"
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
for package in $packages; do
    dpkg-query --status "$package" >"$root/var/lib/dpkg/status.d/$package"
    # Programs of packages stay out, but for Python: no shell comes in by a package that has one.
    dpkg-query --listfiles "$package" | while read -r path; do
        case $path in
            /usr/share/doc/*/copyright | /usr/bin/python3.11 | /etc/os-release | /usr/lib/os-release) echo "$path" ;;
            /usr/share/* | /bin/* | /sbin/* | /usr/bin/* | /usr/sbin/* | /etc/* | /var/* | /lib/systemd/*) ;;
            /usr/lib/*gconv/* | /usr/lib/python3.11/lib2to3/* | /usr/lib/python3.11/pydoc_data/*) ;;
            *) if [ -f "$path" ] || [ -L "$path" ]; then echo "$path"; fi ;;
        esac
    done
done | sort -u >/tmp/files
tar --create --no-recursion --files-from /tmp/files --directory / 2>/dev/null | tar --extract --keep-directory-symlink --directory "$root"
for module in $without; do rm -f "$root/usr/lib/python3.11/lib-dynload/$module".*; done
ln -s python3.11 "$root/usr/bin/python3"

# OpenSSL looks for certificates here.
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
ln -s /etc/ssl/certs/ca-certificates.crt "$root/usr/lib/ssl/cert.pem"
ln -s /etc/ssl/certs "$root/usr/lib/ssl/certs"

printf 'root:x:0:0:root:/:/nologin\nbarograph:x:%s:%s:barograph:/var/lib/barograph:/nologin\n' "$uid" "$uid" >"$root/etc/passwd"
printf 'root:x:0:\nbarograph:x:%s:\n' "$uid" >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
chmod 1777 "$root/tmp"
install -d -m 0750 -o "$uid" -g "$uid" "$root/var/lib/barograph"
install -d -m 0700 -o "$uid" -g "$uid" "$root/run/barograph"
install -d "$root/etc/barograph"
